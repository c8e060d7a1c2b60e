// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon as a service: its configuration, its control interface, its start and stop, its
//! secrets, privileges and metrics, and its package.

mod api;
mod chain;
mod coexist;
mod config;
mod control;
mod crash;
mod detach;
mod disks;
mod lifecycle;
mod metrics;
mod package;
mod secrets;
mod unprivileged;
mod upgrade;
