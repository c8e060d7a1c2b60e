use limiter_tests::program::*;
#[test]
fn a_connection_opens() {
    let mut programs = Programs::fresh();
    let talk = Talk::open(&mut programs, Shape::v4());
    assert!(programs.flow(&talk.key()).is_some());
    println!("{:?}", programs.counters());
}
