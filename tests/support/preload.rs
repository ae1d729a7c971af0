//! A host that misbehaves: a library that is loaded before libc, compiled by `cc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use tempfile::TempDir;

use crate::ensure;
use crate::support::vm::Iolite;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Hangs for the file $HANGS. */
int fdatasync(int fd) {
    char link[64], path[4096];
    const char *hangs = getenv("HANGS");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (hangs && len > 0) {
        path[len] = 0;
        while (strcmp(path, hangs) == 0)
            pause();
    }
    return syscall(SYS_fdatasync, fd);
}

/* Fails once for the thread $PANICS, which Rust's standard library does not expect. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int done;
    char name[16];
    const char *panics = getenv("PANICS");
    if (panics && clock == CLOCK_MONOTONIC && prctl(PR_GET_NAME, name) == 0
        && strcmp(name, panics) == 0 && !__atomic_exchange_n(&done, 1, __ATOMIC_SEQ_CST)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_clock_gettime, clock, now);
}
"#;

/// The library, deleted with this.
pub struct Host(TempDir);

impl Host {
    /// Compiles it.
    pub fn new() -> Result<Host, Failed> {
        let host = Host(tempfile::tempdir()?);
        let source = host.0.path().join("host.c");
        fs::write(&source, SOURCE)?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]);
        let compiled = cc.arg(host.library()).arg(source).output()?;
        ensure!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        Ok(host)
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("host.so")
    }

    /// Has flushes of this image never return.
    pub fn hangs(&self, iolite: Iolite, image: &Path) -> Iolite {
        let iolite = iolite.env("LD_PRELOAD", self.library());
        iolite.env("HANGS", image)
    }

    /// Has the thread of this name panic.
    pub fn panics(&self, iolite: Iolite, thread: &str) -> Iolite {
        let iolite = iolite.env("LD_PRELOAD", self.library());
        iolite.env("PANICS", thread)
    }
}
