// SPDX-License-Identifier: MIT OR Apache-2.0

//! Replaces the attached programs by others, without a gap.

use aya::Ebpf;

use super::Attachments;
use crate::{
    domain::hook::Hook,
    kernel::{
        KernelError,
        error::list_error,
        netdev::{self, Interface, LinkLayer},
        programs::ProgramChoice,
        survey::Survey,
    },
};

impl Attachments {
    /// Returns the hook and the link layer of each attached program.
    ///
    /// # Errors
    /// Returns [`KernelError::Io`] if a file operation fails.
    pub(in crate::kernel) fn programs(&self) -> Result<Vec<(Hook, LinkLayer)>, KernelError> {
        let mut programs = Vec::new();
        for (_, hook, interface) in self.interfaces()? {
            let program = (hook, interface.link_layer);
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
        Ok(programs)
    }

    /// Returns, for each attachment, the name that the interface had when the program was attached,
    /// the hook, and the interface as it is now. Interfaces that are gone are left out, because the
    /// kernel removed their programs together with them.
    fn interfaces(&self) -> Result<Vec<(String, Hook, Interface)>, KernelError> {
        let present = netdev::interfaces().map_err(list_error("network interfaces"))?;
        let found = self.attached.iter().filter_map(|((name, hook), location)| {
            let interface = present.iter().find(|known| known.index == location.index)?;
            Some((name.clone(), *hook, interface.clone()))
        });
        Ok(found.collect())
    }

    /// Replaces the attached programs with those that `choose` selects. If a replacement fails, the
    /// record of that attachment is removed, and the next call to [`Self::follow`] attaches the
    /// program again.
    ///
    /// # Errors
    /// Returns the first error. The programs of the remaining hooks are replaced nevertheless.
    pub(in crate::kernel) fn replace(
        &mut self,
        ebpf: &mut Ebpf,
        choose: ProgramChoice,
    ) -> Result<(), KernelError> {
        let mut failed = None;
        let mut survey = Survey::new()?;
        for (name, hook, interface) in self.interfaces()? {
            let known_as = Interface {
                name: name.clone(),
                ..interface
            };
            if let Err(error) = self.attach(ebpf, &mut survey, (&known_as, hook), choose) {
                self.attached.remove(&(name, hook));
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
