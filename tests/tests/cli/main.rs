// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands for operators: their output, their exit statuses, and the errors about mistakes.

mod audit;
mod check;
mod commands;
mod events;
mod input;
mod json;
mod keys;
mod limits;
mod top;
