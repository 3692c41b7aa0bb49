//! Ids are one path component, whatever comes.

use std::path::{Component, Path};

use proptest::prelude::*;
use protocol::{Attempt, InvalidId, RunId, TaskId};

#[test]
fn what_could_leave_a_folder_or_collide_in_it_is_no_id() {
    for (text, error) in [
        ("", InvalidId::Empty),
        ("..", InvalidId::BadChar { found: '.', at: 0 }),
        (".hidden", InvalidId::BadChar { found: '.', at: 0 }),
        ("a/b", InvalidId::BadChar { found: '/', at: 1 }),
        ("/etc/passwd", InvalidId::BadChar { found: '/', at: 0 }),
        ("a\0", InvalidId::BadChar { found: '\0', at: 1 }),
        ("CON", InvalidId::BadChar { found: 'C', at: 0 }),
        ("а", InvalidId::BadChar { found: 'а', at: 0 }),
        ("a.json", InvalidId::BadSuffix { suffix: ".json" }),
        ("a.tmp", InvalidId::BadSuffix { suffix: ".tmp" }),
    ] {
        assert_eq!(text.parse::<TaskId>().unwrap_err(), error, "{text:?}");
    }
    assert_eq!(
        "a".repeat(65).parse::<TaskId>().unwrap_err(),
        InvalidId::TooLong { len: 65, max: 64 }
    );
    assert!("a".repeat(64).parse::<TaskId>().is_ok());
}

#[test]
fn a_run_has_one_spelling() {
    let uuid = "01a1f873-a64b-741b-b8f7-0d339a181509";
    assert_eq!(uuid.parse::<RunId>().unwrap().to_string(), uuid);
    assert_eq!("adhoc".parse::<RunId>().unwrap(), RunId::Adhoc);
    for other in ["01A1F873-A64B-741B-B8F7-0D339A181509", "01a1f873a64b741bb8f70d339a181509", "x"] {
        assert!(other.parse::<RunId>().is_err(), "{other}");
    }
}

#[test]
fn the_short_form_grows_until_nobody_else_has_it() {
    let run: RunId = "01a1f873-a64b-741b-b8f7-0d339a181509".parse().unwrap();
    let short = run.short(|_| false);
    assert_eq!(short.as_str().len(), 4);
    let longer = run.short(|taken| taken.as_str().len() < 6);
    assert_eq!(longer.as_str().len(), 6);
    assert!(longer.as_str().starts_with(short.as_str()));
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_one_visible_path_component(text in ".{0,70}") {
        if let Ok(id) = text.parse::<TaskId>() {
            let components: Vec<_> = Path::new(id.as_str()).components().collect();
            prop_assert_eq!(components, [Component::Normal(id.as_str().as_ref())]);
            prop_assert!(protocol::atomic_file::is_visible(id.as_str()));
        }
    }

    #[test]
    fn a_slots_name_names_one_attempt_and_is_named_by_one(
        text in "[a-z0-9][a-z0-9._-]{0,30}",
        number in 1_u32..,
    ) {
        if let Ok(id) = text.parse::<TaskId>() {
            let attempt = Attempt::new(number).unwrap();
            let name = id.slot_name(attempt);
            prop_assert_eq!(TaskId::from_slot_name(&name), Some((id, attempt)));
        }
    }

    #[test]
    fn whatever_names_an_attempt_is_how_it_would_be_named(name in "[a-z.]{1,5}[.][+0-9]{1,4}") {
        if let Some((id, attempt)) = TaskId::from_slot_name(&name) {
            prop_assert_eq!(id.slot_name(attempt), name);
        }
    }
}
