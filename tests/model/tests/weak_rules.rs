//! Each weaker rule is caught, with the shortest story that shows why the rule is there.
#![allow(clippy::print_stdout)]

use protocol_model::Broken::{
    CompleteInTheFuture, CountedTwice, FalseAlarm, FalselyComplete, SetBack, SilentLoss, Stuck,
};
use protocol_model::spaces::{
    CLOCK, CLONE, CRASHES, NETWORK, OVERFLOW, ROLLBACK, ROLLBACK_OF_LIVES,
};
use protocol_model::{Broken, Budget, Rules, Weakness, explore_for};

fn caught(weakness: Weakness, space: Budget, broken: Broken) {
    let report = explore_for(broken, space, Rules(Some(weakness)));
    let found = report
        .counterexample
        .unwrap_or_else(|| panic!("{weakness:?} passed in {} states", report.states));
    println!("{weakness:?}, {} states:\n{found}\n", report.states);
    assert_eq!(found.failure.broken, broken, "{weakness:?}:\n{found}");
}

macro_rules! weak_rules {
    ($($name:ident: $weakness:ident in $space:ident breaks $broken:ident;)*) => {
        $(#[test]
        fn $name() {
            caught(Weakness::$weakness, $space, $broken);
        })*
    };
}

weak_rules! {
    // The last table of PROTOCOL.md.
    a_cumulative_ack_loses: CumulativeAck in NETWORK breaks SilentLoss;
    high_water_dedup_loses: HighWaterDedup in NETWORK breaks SilentLoss;
    an_incarnation_kept_over_restarts_loses: IncarnationKept in ROLLBACK breaks SilentLoss;
    a_watermark_over_unsent_lies: WatermarkOverUnsent in NETWORK breaks FalselyComplete;
    dedup_dropped_at_close_counts_twice: DedupDroppedAtClose in CRASHES breaks CountedTwice;
    a_puback_that_deletes_loses: PubackDeletes in NETWORK breaks SilentLoss;
    // Further ones.
    an_ack_before_the_append_loses: AckBeforeAppend in NETWORK breaks SilentLoss;
    a_watermark_of_the_present_life_only_lies: WatermarkOfOwnLifeOnly in CRASHES breaks FalselyComplete;
    a_watermark_of_an_older_transmission_sets_back: WatermarkFromOlderTx in NETWORK breaks SetBack;
    without_the_clamp_a_fast_clock_completes_the_future: NoClamp in CLOCK breaks CompleteInTheFuture;
    the_maximum_over_lives_lies: ProgressIsMaximum in CLONE breaks FalselyComplete;
    a_life_closed_with_holes_loses: ClosedWithHoles in CRASHES breaks SilentLoss;
    a_gap_written_after_the_drop_loses: GapAfterDrop in OVERFLOW breaks SilentLoss;
    lineage_told_once_cries_wolf: LineageToldOnce in CRASHES breaks FalseAlarm;
    an_ack_without_incarnation_cries_wolf: AckWithoutIncarnation in CRASHES breaks FalseAlarm;
    a_first_word_that_is_not_noted_cries_wolf: FirstWordNotNoted in CRASHES breaks FalseAlarm;
    without_incidents_a_rollback_is_stuck: NoIncidents in ROLLBACK breaks Stuck;
    without_incidents_a_rollback_loses: NoIncidents in ROLLBACK breaks SilentLoss;
    a_contradiction_that_is_believed_is_stuck: ContradictionBelieved in ROLLBACK breaks Stuck;
    a_fork_that_is_not_lossy_loses: ForkNotLossy in ROLLBACK breaks SilentLoss;
    a_late_message_that_revives_is_stuck: LateMessageRevives in ROLLBACK breaks Stuck;
    a_lower_number_taken_for_late_is_stuck: LowerNumberIsLate in ROLLBACK_OF_LIVES breaks Stuck;
}
