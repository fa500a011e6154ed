//! Administration: topics, groups, and what the broker is.

mod groups;
mod info;
mod lag;
mod topics;

pub use groups::{
    AlterGroup, Group, GroupDescription, GroupInfo, GroupMode, GroupPolicy, Groups, Member, PartitionReset, ResetGroup,
};
pub use info::{Info, Limits};
pub use lag::{LagWatch, PartitionLag};
pub use topics::{AlterTopic, CreateTopic, PartitionInfo, Topic, TopicConfig, TopicDescription, Topics};
