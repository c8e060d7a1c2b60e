// SPDX-License-Identifier: MIT OR Apache-2.0

//! Created, imported, revoked and unknown keys.

pub mod csv_import;
pub mod csv_rows;
pub mod import;
pub mod import_plan;
pub mod lifecycle;
pub mod registration;
pub mod unknown;
pub mod view;
