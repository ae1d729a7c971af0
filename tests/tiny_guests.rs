//! Whole machines with kernels of a few bytes: boot, console, exit codes, stops.
//!
//! They need /dev/kvm. Where it is missing they are skipped; with IOLITE_REQUIRE_KVM=1 they fail.

#![allow(clippy::unwrap_used)]

#[path = "support/plain.rs"]
mod plain;
#[path = "support/tiny.rs"]
mod tiny;

use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tiny::{Entry, Tiny};

/// The program, with a time limit that no test should need.
fn iolite() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iolite"));
    command
        .env_remove("RUST_LOG")
        .args(["run", "--timeout", "60s"]);
    command.stdin(Stdio::null());
    command
}

/// Runs `kernel` to its end.
fn run(kernel: &Tiny, args: &[&str]) -> Output {
    let file = kernel.file();
    iolite().arg(file.path()).args(args).output().unwrap()
}

fn check(output: &Output, code: i32, stdout: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{stderr}");
}

fn a_reset_is_the_clean_end() {
    for entry in [Entry::Pvh, Entry::Linux64] {
        let output = run(&Tiny::new(entry).print("hello\n").reset(), &[]);
        check(&output, 0, "hello\n");
        assert_eq!(output.stderr, b"");
    }
}

/// Beyond the first GiB, too, a kernel can run where it was loaded.
fn a_kernel_is_entered_wherever_it_lies() {
    for (load, memory) in [(0x4000_0000, "1100M"), (0x20_0000, "4M")] {
        for entry in [Entry::Pvh, Entry::Linux64] {
            let kernel = Tiny::new(entry).at(load).print("here\n").reset();
            check(&run(&kernel, &["-m", memory]), 0, "here\n");
        }
    }
}

fn a_kernel_that_does_not_fit_is_refused_in_a_line() {
    let far = Tiny::new(Entry::Linux64).at(0x4000_0000).reset();
    let output = run(&far, &["-m", "1G"]);
    check(&output, 8, "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("give more with -m"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

fn the_log_names_the_kernels_protocol() {
    for (entry, name) in [(Entry::Pvh, "PVH"), (Entry::Linux64, "Linux 64-bit")] {
        let output = run(&Tiny::new(entry).reset(), &["-v"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = format!("the kernel is entered by the {name} protocol");
        assert!(stderr.contains(&said), "{stderr}");
    }
}

fn the_exit_port_gives_odd_codes() {
    for value in [0, 1, 0x10, 0x7f, 0xff] {
        let output = run(&Tiny::new(Entry::Pvh).exit(value), &[]);
        check(&output, (i32::from(value) * 2 + 1) & 0xff, "");
    }
}

fn a_triple_fault_is_a_crash() {
    let output = run(&Tiny::new(Entry::Pvh).print("bye\n").triple_fault(), &[]);
    check(&output, 12, "bye\n");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("triple fault"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

fn a_guest_that_hangs_runs_into_the_timeout() {
    for kernel in [Tiny::new(Entry::Pvh).halt(), Tiny::new(Entry::Pvh).spin()] {
        let start = Instant::now();
        let output = run(&kernel, &["--timeout", "200ms"]);
        check(&output, 14, "");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

fn the_command_line_reaches_the_kernel() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(512).unwrap();
    let disk = disk.path().to_str().unwrap();
    let disk = format!("{disk},ro");
    let kernel = Tiny::new(Entry::Pvh).print_cmdline().reset();
    let output = run(&kernel, &["-p", "one two", "-d", &disk, "-d", &disk]);
    let disks = "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6";
    check(&output, 0, &format!("one two {disks}"));
    let output = run(&kernel, &[]);
    check(&output, 0, "");
}

fn standard_input_reaches_the_guest_and_its_end_is_ctrl_d() {
    let kernel = Tiny::new(Entry::Pvh).echo_until(4).reset().file();
    // More than FIFO and backlog hold at once.
    let text = "0123456789abcde\n".repeat(1000);
    let mut child = iolite()
        .arg(kernel.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes()).unwrap()
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    check(&output, 0, &(text + "\x04"));

    // A file as standard input cannot be polled.
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"from a file").unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = iolite().arg(kernel.path()).stdin(file).output().unwrap();
    check(&output, 0, "from a file\x04");
}

fn a_disk_that_grows_while_the_guest_looks() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(8 * 512).unwrap();
    // again: mov eax, [capacity of the first disk]; cmp eax, 9; jne again
    let wait = [0xa1, 0x00, 0x01, 0x00, 0xd0, 0x83, 0xf8, 9, 0x75, 0xf6];
    let kernel = Tiny::new(Entry::Pvh).print("ready\n").raw(&wait).exit(9);
    let disk_path = disk.path().to_str().unwrap();
    let (child, _kernel) = start_with(kernel, &["-d", disk_path]);
    disk.as_file().set_len(9 * 512).unwrap();
    signal(&child, "-USR1");
    check(&child.wait_with_output().unwrap(), 19, "");
}

/// A kernel that fills its ring of events with names of new threads that run, and says forty times
/// that it has done so again.
fn liar() -> Tiny {
    Tiny::new(Entry::Pvh)
        .raw(&[0xbf, 0x00, 0x10, 0x00, 0xe0]) // mov edi, 0xe0001000: the first event
        .raw(&[0x31, 0xc9]) // xor ecx, ecx: its number n
        // next: rdtsc; mov [edi], eax; mov [edi+4], edx
        .raw(&[0x0f, 0x31, 0x89, 0x07, 0x89, 0x57, 0x04])
        // ebx = 10 - 9 * (n & 1): NAME and RUN by turns
        .raw(&[0x89, 0xc8, 0x83, 0xe0, 0x01, 0x6b, 0xc0, 0x09])
        .raw(&[0xbb, 0x0a, 0x00, 0x00, 0x00, 0x29, 0xc3])
        // ebx |= n / 2 << 16: the thread
        .raw(&[0x89, 0xc8, 0xd1, 0xe8, 0xc1, 0xe0, 0x10, 0x09, 0xc3])
        // mov [edi+8], ebx; mov [edi+12], ecx; mov [edi+16], "AAAA"; mov [edi+20], ecx
        .raw(&[0x89, 0x5f, 0x08, 0x89, 0x4f, 0x0c])
        .raw(&[0xc7, 0x47, 0x10, 0x41, 0x41, 0x41, 0x41, 0x89, 0x4f, 0x14])
        // add edi, 32; inc ecx; cmp ecx, 65536; jne next
        .raw(&[0x83, 0xc7, 0x20, 0x41, 0x81, 0xf9, 0x00, 0x00, 0x01, 0x00])
        .raw(&[0x75, 0xc5])
        .raw(&[0xb9, 40, 0x00, 0x00, 0x00]) // mov ecx, 40
        // again: add dword [0xe0000040], 65536: so many more are written
        .raw(&[0x81, 0x05, 0x40, 0x00, 0x00, 0xe0, 0x00, 0x00, 0x01, 0x00])
        // rdtsc; mov ebx, eax; wait: rdtsc; sub eax, ebx; cmp eax, 1 << 26; jb wait
        .raw(&[0x0f, 0x31, 0x89, 0xc3, 0x0f, 0x31, 0x29, 0xd8])
        .raw(&[0x3d, 0x00, 0x00, 0x00, 0x04, 0x72, 0xf5])
        .raw(&[0x49, 0x75, 0xe4]) // dec ecx; jnz again
        .reset()
}

fn a_guest_that_lies_in_its_trace_fills_no_memory_and_no_disk() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let output = run(&liar(), &["--trace", trace.to_str().unwrap()]);
    check(&output, 0, "");
    let bytes = trace.metadata().unwrap().len();
    assert!(bytes < 200 << 20, "{bytes}");
    let summary = Command::new(env!("CARGO_BIN_EXE_iolite"))
        .args(["trace", "summary"])
        .arg(&trace)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&summary.stdout);
    // Where the two clocks cannot be compared, all of the guest's half is left out.
    if !said.contains("the guest's half of the trace is left out") {
        let wanted = "events of the guest left out: more threads";
        assert!(said.contains(wanted) && said.lines().count() == 1, "{said}");
        assert!(told.contains("of the guest left out"), "{told}");
    }
    check(&summary, 0, &told);
}

/// Starts a kernel that prints `ready` and then does what `rest` does; waits for it.
fn start(rest: fn(Tiny) -> Tiny) -> (Child, tempfile::NamedTempFile) {
    start_with(rest(Tiny::new(Entry::Pvh).print("ready\n")), &[])
}

/// Starts a kernel that prints `ready`, and waits for it.
fn start_with(kernel: Tiny, args: &[&str]) -> (Child, tempfile::NamedTempFile) {
    let kernel = kernel.file();
    let mut child = iolite()
        .arg(kernel.path())
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    (child, kernel)
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let kill = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(kill.success());
}

fn signals_stop_a_guest_that_spins_or_sleeps() {
    for rest in [Tiny::halt as fn(Tiny) -> Tiny, Tiny::spin] {
        for (name, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
            let (child, _kernel) = start(rest);
            let sent = Instant::now();
            signal(&child, name);
            check(&child.wait_with_output().unwrap(), code, "");
            assert!(sent.elapsed() < Duration::from_secs(5));
        }
    }
}

fn a_reader_that_goes_away_stops_the_machine() {
    let (mut child, _kernel) = start(|tiny| {
        // next: out dx, al; jmp next
        tiny.raw(&[0xee, 0xeb, 0xfd])
    });
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    check(&output, 141, "");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

fn a_console_that_nobody_reads_does_not_hinder_a_stop() {
    let (mut child, _kernel) = start(|tiny| tiny.raw(&[0xee, 0xeb, 0xfd]));
    // The pipe fills, and the vCPU blocks in write(2).
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

plain_tests![
    a_reset_is_the_clean_end,
    a_kernel_is_entered_wherever_it_lies,
    a_kernel_that_does_not_fit_is_refused_in_a_line,
    the_log_names_the_kernels_protocol,
    the_exit_port_gives_odd_codes,
    a_triple_fault_is_a_crash,
    a_guest_that_hangs_runs_into_the_timeout,
    the_command_line_reaches_the_kernel,
    standard_input_reaches_the_guest_and_its_end_is_ctrl_d,
    a_disk_that_grows_while_the_guest_looks,
    a_guest_that_lies_in_its_trace_fills_no_memory_and_no_disk,
    signals_stop_a_guest_that_spins_or_sleeps,
    a_reader_that_goes_away_stops_the_machine,
    a_console_that_nobody_reads_does_not_hinder_a_stop,
];
