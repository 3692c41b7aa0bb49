use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use gateway::{DIR_MODE, ListenError, SOCKET_MODE};
use http::Response;
use tokio::net::{UnixListener, UnixStream};

use crate::support::{World, caller, full, get, replica, send, soon, upstream};

async fn world() -> World {
    let (url, _) = upstream(|_| async { Response::new(full("ok")) }).await;
    World::new(&url)
}

async fn refused(world: &World, path: &Path) -> ListenError {
    world.gateway.listen(replica("marie-1", None), path).await.unwrap_err()
}

#[tokio::test]
async fn socket_of_a_dead_process_is_replaced() {
    let world = world().await;
    let path = world.dir.path().join("gateway.sock");
    // Closing does not remove the file: so a killed process leaves it.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());

    let listener = world.gateway.listen(replica("marie-1", None), &path).await.unwrap();
    listener.assign(Some(caller("marie-1", 1)));

    assert_eq!(send(listener.path(), get("/v1/models/x")).await.status(), 200);
}

#[tokio::test]
async fn socket_of_a_living_process_is_left_alone() {
    let world = world().await;
    let path = world.dir.path().join("gateway.sock");
    let _alive = UnixListener::bind(&path).unwrap();

    let error = refused(&world, &path).await;

    assert!(matches!(error, ListenError::InUse { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("gateway.sock"));
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn file_in_the_way_is_left_alone() {
    let world = world().await;
    let path = world.dir.path().join("precious");
    fs::create_dir(&path).unwrap();

    let error = refused(&world, &path).await;

    assert!(matches!(error, ListenError::NotASocket { .. }), "{error:?}");
    assert!(path.is_dir());
}

#[tokio::test]
async fn path_that_no_socket_can_have_is_refused_with_its_length() {
    let world = world().await;
    let dir = world.dir.path().as_os_str().len();
    let path = |len: usize| world.dir.path().join("x".repeat(len - dir - 1));

    let error = refused(&world, &path(108)).await;

    assert!(matches!(error, ListenError::PathTooLong { len: 108, .. }), "{error:?}");
    world.gateway.listen(replica("marie-1", None), &path(107)).await.unwrap().close().await;
}

#[tokio::test]
async fn socket_and_its_folder_are_open_to_other_users_and_what_is_above_is_not() {
    let world = world().await;
    let path = world.dir.path().join("run/gateway/marie-1/gateway.sock");
    let listener = world.gateway.listen(replica("marie-1", None), &path).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

    assert!(fs::metadata(listener.path()).unwrap().file_type().is_socket());
    assert_eq!(mode(&path), SOCKET_MODE);
    let marie = path.parent().unwrap();
    assert_eq!(mode(marie), DIR_MODE);
    assert_eq!(mode(marie.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn listener_can_be_opened_closed_and_opened_again() {
    let world = world().await;
    for close in [true, false, true] {
        let listener = world.replica("marie-1", None).await;
        let path = listener.path().to_owned();
        assert_eq!(send(&path, get("/v1/models/x")).await.status(), 200);
        if close {
            soon("the close", listener.close()).await;
        } else {
            drop(listener);
        }
        assert!(!path.exists(), "closed: {close}");
    }
}

#[tokio::test]
async fn listener_does_not_remove_the_socket_of_its_successor() {
    let world = world().await;
    let old = world.replica("marie-1", None).await;
    fs::remove_file(old.path()).unwrap();
    let new = world.replica("marie-1", None).await;

    old.close().await;

    assert_eq!(send(new.path(), get("/v1/models/x")).await.status(), 200);
}
