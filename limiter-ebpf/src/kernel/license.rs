// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The licence of the programs. The kernel reads it, and offers some helpers only to programs whose
//! licence is compatible with the GPL.

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
