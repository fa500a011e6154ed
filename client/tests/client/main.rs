//! The client against a scripted broker in the same process: every request is seen, every answer is the test's choice.
//! Time is paused, so that waiting is free and nothing depends on how fast the machine is.

mod consumer;
mod fake;
mod pace;
mod producer;
mod run;
mod subscription;
mod table;
