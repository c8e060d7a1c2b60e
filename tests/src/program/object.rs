// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel object as tests load it.

use std::{
    env, fs,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult,
    },
};
use limiter_common::abi::map;

use super::{bpffs::BpfFs, maps::Maps};

/// The kernel object, which build.rs builds.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limiter-ebpf"));

/// The environment variable that names a file to load instead of the embedded object.
const OBJECT_VARIABLE: &str = "LIMITER_OBJECT";

/// The size of the ring buffer for refusals in bytes. It is the smallest possible size, one page,
/// so that a test can fill the buffer.
const SMALL_RING: u32 = 4096;

/// The sizes that a daemon chooses for its maps.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    pub scopes: u32,
    pub keys: u32,
    pub flows: u32,
}

/// The loaded programs and maps. The programs are not attached to any hook.
pub struct Object {
    ebpf: Ebpf,
    compiler: String,
    pub maps: Maps,
    // This file system contains the pins of the maps.
    _pins: BpfFs,
}

impl Object {
    /// Loads the object and all its programs.
    ///
    /// # Panics
    /// Panics with the verifier's message if the kernel rejects a program.
    pub fn load(tables: Tables) -> Self {
        match env::var_os(OBJECT_VARIABLE) {
            Some(file) => {
                let bytes = fs::read(&file)
                    .unwrap_or_else(|error| panic!("read {}: {error}", Path::new(&file).display()));
                Self::load_bytes(&bytes, tables)
            }
            None => Self::load_bytes(OBJECT, tables),
        }
    }

    fn load_bytes(bytes: &[u8], tables: Tables) -> Self {
        let pins = BpfFs::new().expect("a BPF file system (needs root)");
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.path())
            .map_max_entries(map::LIMITS, tables.scopes)
            .map_max_entries(map::LEASES, tables.scopes)
            .map_max_entries(map::STATE, tables.scopes)
            .map_max_entries(map::KEYS, tables.keys)
            .map_max_entries(map::FLOWS, tables.flows)
            .map_max_entries(map::UNFINISHED, tables.flows)
            .map_max_entries(map::UNTRACKED, tables.flows)
            .map_max_entries(map::REFUSALS, SMALL_RING)
            .load(bytes)
            .unwrap_or_else(|error| panic!("load the object: {error:?}"));
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                _ => panic!("{name} is not a classifier"),
            };
            if let Err(error) = loaded {
                panic!("{}", refusal(name, &error));
            }
        }
        let maps = Maps::of(&mut ebpf);
        Self {
            ebpf,
            compiler: compiler(bytes),
            maps,
            _pins: pins,
        }
    }

    /// Returns the compiler that built the programs, as their debug information states it.
    pub fn compiler(&self) -> &str {
        &self.compiler
    }

    /// Runs a program on a packet.
    ///
    /// # Errors
    /// Returns the kernel's error if the run fails. The kernel accepts only packets of 14 bytes to
    /// about 3.7 KiB.
    pub fn run(
        &self,
        program: &str,
        options: TestRunOptions<'_>,
    ) -> Result<TestRunResult, ProgramError> {
        self.program(program).test_run(options)
    }

    /// Returns the descriptor of a program, for system calls.
    pub fn fd(&self, program: &str) -> BorrowedFd<'_> {
        self.program(program)
            .fd()
            .expect("the program is loaded")
            .as_fd()
    }

    /// Stores a program in the entry `number` of the map `PROGRAMS`, so that a tail call to this
    /// entry runs the program.
    pub fn set_tail_call(&mut self, number: u32, program: &str) {
        let Some(Program::SchedClassifier(program)) = self.ebpf.program(program) else {
            panic!("the object has no classifier {program}");
        };
        let fd = program.fd().expect("the program is loaded");
        let set = self.maps.programs.set(number, fd, 0);
        set.expect("an entry of the array of programs");
    }

    /// Runs a program that reads no packet.
    pub fn run_bare(&self, program: &str) {
        let options = TestRunOptions {
            data_in: Some(&[0; 64]),
            ..TestRunOptions::default()
        };
        self.run(program, options)
            .unwrap_or_else(|error| panic!("run {program}: {error:?}"));
    }

    /// Returns the names of all programs.
    pub fn names(&self) -> Vec<&str> {
        self.ebpf.programs().map(|(name, _)| name).collect()
    }

    /// Returns the number of instructions that the verifier processed, or 0 on kernels before 5.16,
    /// which do not report it.
    pub fn verified_instructions(&self, program: &str) -> u32 {
        let info = self.program(program).info().expect("the program's info");
        info.verified_instruction_count().unwrap_or(0)
    }

    /// Returns the aya object itself, for example to reach maps that exist only in the builds for
    /// benchmarks.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    fn program(&self, name: &str) -> &SchedClassifier {
        match self.ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => program,
            _ => panic!("the object has no classifier {name}"),
        }
    }
}

/// Returns the compiler's version, `rustc version ...`, from the attribute DW_AT_producer (DWARF 5,
/// section 3.1.1). The version ends with a parenthesis, and the attribute with a zero byte.
fn compiler(object: &[u8]) -> String {
    const START: &[u8] = b"rustc version ";
    let at = object.windows(START.len()).position(|bytes| bytes == START);
    let text = at.and_then(|at| {
        object[at..]
            .split(|byte| *byte == 0 || *byte == b')')
            .next()
    });
    text.map_or_else(String::new, |text| {
        format!("{})", String::from_utf8_lossy(text))
    })
}

/// Returns the message for a program that the kernel did not accept. It contains only the last
/// lines of the verifier's output, because they state the cause.
fn refusal(name: &str, error: &ProgramError) -> String {
    const LINES: usize = 40;
    let text = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => format!("{verifier_log}\n{io_error}"),
        error => format!("{error:?}"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!("the kernel did not accept {name}:\n{end}")
}
