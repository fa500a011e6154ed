//! What the client promises, shown on both transports: a broker inside this process, and one across a socket.

mod consuming;
mod dead_letters;
mod groups;
mod producing;
mod reading;
mod stage;
mod tables;
mod topics;

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
    tables {
        a_table_holds_the_latest_of_each_key_and_follows,
        a_table_that_would_hold_too_much_says_which_limit,
        a_topic_deleted_under_a_table_ends_it_with_an_error,
        a_compacted_topic_keeps_the_latest_of_each_key_and_its_readers_notice_nothing,
        tombstones_go_when_their_time_is_over,
        a_compacted_topic_takes_no_record_without_a_key,
        cleanup_is_set_shown_and_altered,
    }
    groups {
        lag_falls_to_zero_as_records_are_acked,
        a_watch_reports_lag_as_it_changes,
        a_commit_without_a_member_goes_forward_only,
        a_reset_moves_anywhere_and_a_dry_run_nowhere,
        a_group_with_members_is_neither_reset_nor_deleted,
        a_member_that_disagrees_with_the_policy_is_refused,
        a_group_can_begin_at_the_end,
        a_group_is_made_altered_listed_and_deleted,
        modes_that_are_not_there_yet_are_refused_by_name,
    }
}
