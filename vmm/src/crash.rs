//! Ends of a vCPU that nobody wanted, in words that help whoever builds the kernel.

use std::fmt;

/// KVM_INTERNAL_ERROR_EMULATION: KVM had to emulate an instruction and does not know it.
const INTERNAL_ERROR_EMULATION: u32 = 1;

/// An end of the vCPU that nobody wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A fault while handling a fault while handling a fault; RIP where it is known.
    TripleFault(Option<u64>),
    /// KVM cannot go on with this instruction.
    Internal {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// Where the guest was.
        rip: u64,
        /// What it wanted to execute, as far as it is known.
        instruction: Vec<u8>,
    },
    /// The processor refused the guest's state.
    EntryFailed {
        /// The hardware's reason.
        reason: u64,
        /// Where the guest was.
        rip: u64,
    },
    /// KVM left the guest for a reason that this machine has no use for.
    Unexpected(String),
    /// Not the guest's fault: KVM_RUN failed, or a mistake of ours.
    Host(String),
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Crash::TripleFault(rip) => {
                write!(f, "the guest crashed: triple fault")?;
                if let Some(rip) = rip {
                    write!(f, " at rip {rip:#x}")?;
                }
                write!(
                    f,
                    "; an exception came before its handlers were ready (addr2line -e KERNEL)"
                )
            }
            Crash::Internal {
                suberror: INTERNAL_ERROR_EMULATION,
                rip,
                instruction,
            } => {
                write!(
                    f,
                    "the guest crashed: the platform cannot emulate the instruction at rip "
                )?;
                write!(f, "{rip:#x}{}; ", Hex(instruction))?;
                write!(
                    f,
                    "where ring 0 is emulated, the kernel has to do without it"
                )
            }
            Crash::Internal {
                suberror,
                rip,
                instruction,
            } => {
                write!(
                    f,
                    "the guest crashed: KVM internal error {suberror} at rip "
                )?;
                write!(f, "{rip:#x}{}", Hex(instruction))
            }
            Crash::EntryFailed { reason, rip } => {
                write!(
                    f,
                    "the guest crashed: the processor refuses its state at rip {rip:#x} "
                )?;
                write!(f, "(hardware reason {reason:#x})")
            }
            Crash::Unexpected(exit) => {
                write!(
                    f,
                    "the guest crashed: it left KVM for a reason this machine has no use for: "
                )?;
                write!(f, "{exit}")
            }
            Crash::Host(what) => write!(f, "the vCPU cannot run: {what}"),
        }
    }
}

/// Bytes as `(0f 58 c1)`, or nothing.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { " (" } else { " " })?;
        }
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, ")")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_name_the_instruction() {
        let crash = Crash::Internal {
            suberror: 1,
            rip: 0x1000,
            instruction: vec![0x0f, 0x58],
        };
        let text = crash.to_string();
        assert!(
            text.contains("cannot emulate the instruction at rip 0x1000 (0f 58)"),
            "{text}"
        );
        assert!(!Crash::TripleFault(None).to_string().contains(" at rip"));
    }
}
