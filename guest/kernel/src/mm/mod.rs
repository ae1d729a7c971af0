//! Memory: frames, page tables, address spaces, the page cache, and the pager that fills it.
//!
//! `layout` is the address map. `frame` hands out physical memory, `paging` maps it, `space` knows
//! what a process may see where; `cache` keeps pages of disks and files, and `pager` turns a page
//! fault into a read of the missing page.

mod boot_vec;
pub mod cache;
pub mod frame;
pub mod heap;
pub mod kstack;
pub mod layout;
pub mod mmio;
pub mod pager;
pub mod paging;
pub mod space;
