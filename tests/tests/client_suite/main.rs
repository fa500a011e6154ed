//! What the client promises, shown on both transports: a broker inside this process, and one across a socket.

mod backlog;
mod clockwork;
mod consuming;
mod dead_letters;
mod delays;
mod groups;
mod handlers;
mod keyed;
mod membership;
mod producing;
mod reading;
mod rolling;
mod shared;
mod stage;
mod tables;
mod topics;
mod trouble;

/// Runs every test twice: `embedded::…` and `networked::…`.
macro_rules! on_both_transports {
    ($($concern:ident { $($test:ident),+ $(,)? })+) => {
        mod embedded {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$concern::$test(crate::stage::Stage::embedded().await).await;
                }
            )+)+
        }

        mod networked {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$concern::$test(crate::stage::Stage::networked().await).await;
                }
            )+)+
        }
    };
}

on_both_transports! {
    keyed {
        keys_are_spread_over_members_and_stay_in_order_whatever_fails,
        a_poison_record_holds_its_own_key_and_no_other,
    }
    shared {
        records_are_spread_over_members_and_settled_each_by_itself,
        a_slow_member_does_not_hold_the_others,
        a_record_that_fails_every_time_is_parked_and_nothing_waits_for_it,
        all_that_fails_together_comes_again_however_it_is_stored,
        a_redriven_record_begins_anew_and_tells_how_it_had_failed,
        what_a_member_had_open_goes_to_the_others_when_it_leaves,
    }
    reading {
        every_part_of_a_record_comes_back,
        batches_of_every_codec_come_back,
        history_is_replayed_from_an_offset,
        history_is_replayed_from_a_time,
        until_end_stops_at_what_was_there,
        latest_sees_only_what_comes_afterwards,
        a_fetch_waits_for_the_first_record,
        an_offset_outside_the_log_is_answered_with_the_valid_range,
        what_is_truncated_under_a_reader_is_a_gap,
        a_topic_made_again_is_another_topic,
        a_topic_deleted_under_a_subscription_ends_it_with_an_error,
        closing_the_client_ends_streams_with_none,
    }
    topics {
        a_topic_is_made_described_altered_listed_and_deleted,
        partitions_are_added_and_never_taken_away,
        a_name_is_taken_once,
        truncation_goes_forward_and_not_beyond_the_end,
        the_broker_says_what_it_is,
    }
    producing {
        tickets_come_back_in_order_with_adjacent_offsets,
        equal_keys_share_a_partition_and_keep_their_order,
        many_records_get_one_receipt_per_run,
        a_full_buffer_gives_the_record_back,
        whoever_waits_for_room_makes_a_lingering_batch_go,
        flush_reports_failures_of_dropped_tickets,
        a_named_producer_fences_its_predecessor,
        a_named_producer_goes_on_where_it_left_off,
        a_record_over_the_limit_comes_back_and_the_producer_goes_on,
        an_unknown_topic_is_refused_with_a_hint,
        a_closed_client_sends_nothing_more,
    }
    consuming {
        what_was_acked_is_not_delivered_again,
        what_was_nacked_is_delivered_again,
        a_delivery_dropped_without_a_word_is_delivered_again,
        an_answer_that_does_not_come_in_time_is_given_up,
        two_members_share_the_partitions,
        partitions_of_a_member_that_leaves_move_to_the_other,
        open_deliveries_of_a_member_that_dies_go_to_the_other,
        each_group_sees_everything,
        what_is_truncated_under_a_group_is_a_gap,
        a_topic_in_use_is_not_deleted_unless_forced,
    }
    dead_letters {
        what_fails_too_often_becomes_a_dead_letter_and_the_rest_goes_on,
        attempts_are_counted_across_members_and_told_by_describe,
        a_record_can_be_parked_at_once_and_that_can_be_waited_for,
        a_halted_partition_says_why_and_goes_on_once_the_policy_allows,
        a_handler_that_extends_keeps_its_delivery,
        redriven_letters_go_back_to_their_group_alone,
        redriven_letters_wait_for_a_member_and_keep_their_order,
    }
    delays {
        what_is_delivered_later_comes_in_order_of_its_time_and_as_it_was,
        keys_and_partitions_hold_for_what_is_delivered_later,
        what_is_already_due_comes_at_once,
        absurd_times_and_unknown_topics_are_refused,
        a_topic_made_again_gets_nothing_that_was_scheduled_before,
        what_waits_is_counted,
    }
    trouble {
        a_record_that_holds_its_partition_is_named_with_its_time,
        a_member_that_takes_no_more_is_named,
        a_halted_partition_is_named_and_goes_on_with_its_members_once_the_policy_allows,
        an_altered_policy_reaches_ordered_members_at_once,
        an_altered_policy_reaches_shared_members_at_once,
        an_altered_policy_reaches_keyed_members_at_once,
        what_is_tried_again_is_counted_and_its_time_told,
        a_keyed_group_says_what_waits_behind_a_failure_and_until_when,
    }
    rolling {
        a_rolling_restart_moves_only_what_the_restarted_member_had,
        a_rolling_restart_of_static_members_moves_nothing,
    }
    membership {
        partitions_wait_for_a_static_member_and_move_once_it_has_gone_for_good,
        a_newer_member_of_a_static_name_takes_over,
        an_ack_after_the_revocation_is_counted_and_changes_nothing,
        dead_letters_are_consumed_by_another_group_and_those_of_that_one_by_none,
        nobody_publishes_to_what_belongs_to_the_broker,
        hours_are_shown_and_changed_and_hours_that_are_none_are_refused,
    }
    handlers {
        each_event_is_handled_in_its_partitions_order_and_durably_acked,
        what_handlers_fail_at_is_tried_again_and_becomes_a_dead_letter_that_says_why,
        a_handler_slower_than_the_ack_time_out_keeps_its_event_and_those_behind_it,
        a_shutdown_finishes_what_runs_and_leaves_the_rest_to_others_as_it_was,
        a_paused_member_keeps_its_partition_and_what_waits_beyond_the_ack_time_out,
        a_slow_rate_does_not_run_what_waits_into_the_ack_time_out,
        an_ack_after_the_partition_has_gone_is_counted_and_disturbs_nobody,
    }
    tables {
        a_table_holds_the_latest_of_each_key_and_follows,
        a_table_that_would_hold_too_much_says_which_limit,
        a_topic_deleted_under_a_table_ends_it_with_an_error,
        a_compacted_topic_keeps_the_latest_of_each_key_and_its_readers_notice_nothing,
        compaction_that_is_asked_for_takes_what_was_published_last,
        tombstones_go_when_their_time_is_over,
        a_compacted_topic_takes_no_record_without_a_key,
        cleanup_is_set_shown_and_altered,
    }
    groups {
        lag_falls_to_zero_as_records_are_acked,
        lag_tells_where_it_leads,
        a_watch_reports_lag_as_it_changes,
        a_commit_without_a_member_goes_forward_only,
        a_reset_moves_anywhere_and_a_dry_run_nowhere,
        a_group_with_members_is_neither_reset_nor_deleted,
        a_member_that_disagrees_with_the_policy_is_refused,
        a_group_can_begin_at_the_end,
        a_group_is_made_altered_listed_and_deleted,
    }
    backlog {
        publishers_wait_for_a_group_and_everybody_is_told,
        publishers_are_refused_with_all_the_facts_and_then_not_any_more,
        a_consumer_that_publishes_to_the_topic_it_reads_never_waits_for_itself,
        a_publisher_that_becomes_a_member_while_it_waits_is_let_go,
        a_group_that_does_not_exist_holds_nobody_and_that_is_told,
        a_group_that_begins_at_the_end_has_nothing_unread,
        a_backlog_is_altered_and_switched_off_while_it_holds,
        bytes_and_ages_bind_as_records_do,
        the_lag_of_all_partitions_counts_together,
        what_makes_no_sense_as_a_backlog_is_refused_by_name,
    }
}
