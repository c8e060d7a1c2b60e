// SPDX-License-Identifier: MIT OR Apache-2.0

//! Conversion of errors of the store and the kernel to errors of the control interface.

use crate::{kernel::KernelError, protocol::error::ApiError, store::StoreError};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::ScopeExists(_)
            | StoreError::KeyExists { .. }
            | StoreError::KeyRevoked(_) => Self::conflict(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<KernelError> for ApiError {
    fn from(error: KernelError) -> Self {
        Self::failed(error.to_string())
    }
}
