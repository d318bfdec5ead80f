//! Whether a program runs where there is nothing but itself.

use anyhow::{Context as _, ensure};

/// Machines by their names in Go and their numbers in ELF headers.
const MACHINES: [(&str, u16); 2] = [("amd64", 62), ("arm64", 183)];
const PT_INTERP: u32 = 3;

/// Checks that `program` is a 64-bit ELF program for `arch` that needs no dynamic linker.
///
/// # Errors
/// When it is not.
pub fn check_static(program: &[u8], arch: &str) -> anyhow::Result<()> {
    let known = MACHINES.iter().find(|(name, _)| *name == arch);
    let (_, wanted) = known.with_context(|| format!("{arch} is no processor that is known here"))?;
    // Little-endian, which both processors are.
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit ELF program");
    let machine = u16::from_le_bytes(octets(program, 18)?);
    ensure!(machine == *wanted, "made for another processor (ELF machine {machine}) than {arch}");
    let first = usize::try_from(u64::from_le_bytes(octets(program, 32)?))?;
    let size = usize::from(u16::from_le_bytes(octets(program, 54)?));
    let count = usize::from(u16::from_le_bytes(octets(program, 56)?));
    for index in 0..count {
        let kind = u32::from_le_bytes(octets(program, first + index * size)?);
        ensure!(kind != PT_INTERP, "dynamically linked: build it for a musl target");
    }
    Ok(())
}

fn octets<const N: usize>(program: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    program.get(at..).and_then(|rest| rest.first_chunk().copied()).context("an ELF program that ends early")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header and one program header of `kind`.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut program = b"\x7fELF\x02\x01".to_vec();
        program.resize(64, 0);
        program[18..20].copy_from_slice(&machine.to_le_bytes());
        program[32] = 64;
        program[54] = 56;
        program[56] = 1;
        program.extend(kind.to_le_bytes());
        program
    }

    #[test]
    fn a_static_program_of_the_right_processor_passes() {
        check_static(&program(62, 1), "amd64").expect("fine");
        check_static(&program(183, 1), "arm64").expect("fine");
    }

    #[test]
    fn whatever_else_is_refused_with_the_reason() {
        let refusal = |program: &[u8], arch| check_static(program, arch).expect_err("refused").to_string();
        assert!(refusal(&program(62, PT_INTERP), "amd64").contains("dynamically linked"));
        assert!(refusal(&program(62, 1), "arm64").contains("another processor"));
        assert!(refusal(b"#!/bin/sh", "amd64").contains("not a 64-bit ELF"));
        assert!(refusal(&program(62, 1)[..60], "amd64").contains("ends early"));
    }

    #[test]
    fn this_very_test_is_dynamic_where_it_is_built_for_glibc() {
        let me = std::fs::read(std::env::current_exe().expect("a path")).expect("a program");
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        assert_eq!(check_static(&me, arch).is_err(), cfg!(target_env = "gnu"));
    }
}
