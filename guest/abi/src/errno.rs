//! Error numbers: POSIX names, Linux values.

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// Why a system call failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Errno {
            $(#[doc = $text] $name = $value,)*
        }

        impl Errno {
            /// The error with this number, if there is one.
            pub const fn from_raw(value: i32) -> Option<Errno> {
                match value {
                    $($value => Some(Errno::$name),)*
                    _ => None,
                }
            }

            /// What the error means, in a few words.
            pub const fn message(self) -> &'static str {
                match self {
                    $(Errno::$name => $text,)*
                }
            }
        }
    };
}

errnos! {
    ENOENT = 2, "no such file or disk";
    ESRCH = 3, "no such process or thread";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device";
    E2BIG = 7, "argument list too long";
    ENOEXEC = 8, "not an executable this kernel can run";
    EBADF = 9, "bad descriptor";
    ECHILD = 10, "no such child";
    EAGAIN = 11, "try again later";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    ENODEV = 19, "not possible on this kind of file";
    EINVAL = 22, "invalid argument";
    EMFILE = 24, "too many open descriptors";
    EFBIG = 27, "offset too large";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only disk or file";
    EPIPE = 32, "the other side is gone";
    ENOSYS = 38, "no such system call";
    ETIMEDOUT = 110, "timed out";
    ECANCELED = 125, "cancelled";
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn numbers_are_those_of_linux_and_round_trip() {
        assert_eq!(Errno::EIO as i32, 5);
        assert_eq!(Errno::from_raw(125), Some(Errno::ECANCELED));
        assert_eq!(Errno::from_raw(1), None);
    }
}
