use proptest::prelude::*;

use super::*;

#[test]
fn median_and_ninetieth_percentile_are_those_of_the_book() {
    let of = |figures: &[f64]| spread(figures.to_vec()).map(|of| (of.median, of.p90));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[3.0]), Some((3.0, 3.0)));
    assert_eq!(of(&[5.0, 1.0]), Some((3.0, 5.0)));
    assert_eq!(of(&[9.0, 1.0, 2.0]), Some((2.0, 9.0)));
    let ten: Vec<f64> = (1..=10).map(f64::from).collect();
    assert_eq!(of(&ten), Some((5.5, 9.0)));
    let eleven: Vec<f64> = (1..=11).map(f64::from).collect();
    assert_eq!(of(&eleven), Some((6.0, 10.0)));
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(of(&hundred), Some((50.5, 90.0)));
}

proptest! {
    #[test]
    fn half_are_on_each_side_of_the_median_and_nine_of_ten_below_the_percentile(
        figures in prop::collection::vec(0_u32..50, 1..200),
    ) {
        let figures: Vec<f64> = figures.into_iter().map(f64::from).collect();
        let Spread { median, p90 } = spread(figures.clone()).unwrap();
        let count = |of: &dyn Fn(&f64) -> bool| figures.iter().filter(|f| of(f)).count();
        let all = figures.len();
        prop_assert!(count(&|f| *f < median) * 2 <= all);
        prop_assert!(count(&|f| *f > median) * 2 <= all);
        prop_assert!(count(&|f| *f <= p90) * 10 >= all * 9);
        prop_assert!(count(&|f| *f < p90) * 10 < all * 9, "a smaller one would do");
        prop_assert!(figures.contains(&p90) && p90 >= median);
    }
}
