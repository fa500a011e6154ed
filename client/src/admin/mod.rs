//! Administration: topics, groups, and what the broker is.

mod groups;
mod info;
mod lag;
mod letters;
mod policy;
mod topics;
mod verify;

pub use groups::{
    AlterGroup, FailedRecords, Group, GroupDescription, GroupInfo, Groups, Member, PartitionReset, ResetGroup,
};
pub use info::{FailedPartition, Info, Limits};
pub use lag::{LagWatch, PartitionLag};
pub use letters::{DeadLetters, DeadLettersInfo, LetterFilter};
pub use policy::{GroupMode, GroupPolicy, OnExhausted, RetryPolicy};
pub use topics::{
    AlterTopic, Cleanup, Compacted, CreateTopic, PartitionInfo, Topic, TopicConfig, TopicDescription, Topics,
};
pub use verify::{Verification, VerifyEvent, VerifyFinding, VerifySeverity, VerifySummary, VerifyTopic};
