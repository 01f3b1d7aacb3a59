//! Clusters on machines of their own, under load, while things go wrong: nothing acknowledged is lost, no two primaries take
//! writes in one epoch, and all is well again afterwards without anybody's help.
//!
//! `CONCLAVE_CHAOS_SEED=7` repeats an order of faults, `CONCLAVE_CHAOS_FAULTS=KillNode,Flap` chooses them.

use conclave_chaos_tests::drill::{ALL, OF_FIVE, SELECTION, run};

#[test]
fn nothing_acknowledged_is_lost_by_the_usual_faults() {
    run(3, &SELECTION);
}

#[test]
#[ignore = "takes a quarter of an hour: deploy/test --extended"]
fn nothing_acknowledged_is_lost_by_any_fault() {
    run(3, &ALL);
}

#[test]
#[ignore = "takes minutes, and five nodes: deploy/test --extended"]
fn nothing_acknowledged_is_lost_by_a_cluster_of_five() {
    run(5, &OF_FIVE);
}
