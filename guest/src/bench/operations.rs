//! The operations that are measured

use std::ptr;

/// Something a program asks Linux for.
pub trait Operation {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// How often it is done in one batch: few enough that most batches meet no timer tick.
    fn times(&self) -> u64;
    /// What a batch needs, not measured.
    fn before(&mut self) {}
    /// Does it once.
    fn perform(&mut self);
    /// What a batch leaves, not measured.
    fn after(&mut self) {}
}

/// All of them.
pub fn all() -> Vec<Box<dyn Operation>> {
    vec![
        simple("getppid", 200, || {
            // SAFETY: asks for a number.
            unsafe { libc::getppid() };
        }),
        simple("stat", 50, stat),
        simple("open-close", 50, open_close),
        Box::new(PingPong::new()),
        simple("fork-exit", 1, || wait_for(fork(|| 0))),
        simple("fork-exec", 1, || wait_for(fork(exec_true))),
        Box::new(PageFault { pages: ptr::null_mut(), next: 0 }),
        Box::new(Signal::new()),
    ]
}

/// An operation that needs nothing.
struct Simple {
    name: &'static str,
    times: u64,
    perform: fn(),
}

fn simple(name: &'static str, times: u64, perform: fn()) -> Box<dyn Operation> {
    Box::new(Simple { name, times, perform })
}

impl Operation for Simple {
    fn name(&self) -> &'static str {
        self.name
    }
    fn times(&self) -> u64 {
        self.times
    }
    fn perform(&mut self) {
        (self.perform)();
    }
}

/// A file in memory.
const FILE: &std::ffi::CStr = c"/bin/busybox";

fn stat() {
    // SAFETY: all zeros is a valid `stat`, which the call fills.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        assert_eq!(libc::stat(FILE.as_ptr(), &mut stat), 0);
    }
}

fn open_close() {
    // SAFETY: the path is a constant string, the descriptor is ours.
    unsafe {
        let file = libc::open(FILE.as_ptr(), libc::O_RDONLY);
        assert!(file >= 0);
        libc::close(file);
    }
}

/// Runs `child` in a new process, whose exit code it returns.
fn fork(child: fn() -> i32) -> libc::pid_t {
    // SAFETY: this program has one thread, so the child may do what it likes.
    match unsafe { libc::fork() } {
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(child()) },
        pid => {
            assert!(pid > 0, "no new process");
            pid
        }
    }
}

fn wait_for(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the status is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "the child failed");
}

fn exec_true() -> i32 {
    let arguments = [c"true".as_ptr(), ptr::null()];
    // SAFETY: path and arguments are constant strings, the list ends with a null pointer.
    unsafe { libc::execv(FILE.as_ptr(), arguments.as_ptr()) };
    127
}

/// A byte to another process and back.
struct PingPong {
    there: [i32; 2],
    back: [i32; 2],
    other: libc::pid_t,
}

impl PingPong {
    fn new() -> Self {
        PingPong { there: [0; 2], back: [0; 2], other: 0 }
    }
}

impl Operation for PingPong {
    fn name(&self) -> &'static str {
        "pipe-ping-pong"
    }
    fn times(&self) -> u64 {
        20
    }
    fn before(&mut self) {
        (self.there, self.back) = (pipe(), pipe());
        // SAFETY: this program has one thread.
        self.other = unsafe { libc::fork() };
        if self.other == 0 {
            close(self.there[1]);
            while receive(self.there[0]) {
                send(self.back[1]);
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        // The other process has its start behind it.
        (0..3).for_each(|_| self.perform());
    }
    fn perform(&mut self) {
        send(self.there[1]);
        assert!(receive(self.back[0]));
    }
    fn after(&mut self) {
        close(self.there[1]);
        wait_for(self.other);
        [self.there[0], self.back[0], self.back[1]].into_iter().for_each(close);
    }
}

fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: the call fills the two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    ends
}

fn send(to: i32) {
    // SAFETY: one byte of a constant.
    assert_eq!(unsafe { libc::write(to, b"x".as_ptr().cast(), 1) }, 1);
}

/// Whether there was a byte before the end.
fn receive(from: i32) -> bool {
    let mut byte = 0u8;
    // SAFETY: one byte of ours.
    unsafe { libc::read(from, (&raw mut byte).cast(), 1) == 1 }
}

fn close(descriptor: i32) {
    // SAFETY: the descriptor is ours and not used afterwards.
    unsafe { libc::close(descriptor) };
}

/// The first touch of an anonymous page.
struct PageFault {
    pages: *mut u8,
    next: usize,
}

const PAGE: usize = 4096;
const PAGES: usize = 50;

impl Operation for PageFault {
    fn name(&self) -> &'static str {
        "page-fault"
    }
    fn times(&self) -> u64 {
        // The first touch also makes tables, so it is done before.
        PAGES as u64 - 1
    }
    fn before(&mut self) {
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, of which no page may be a huge one.
        unsafe {
            let pages = libc::mmap(ptr::null_mut(), PAGES * PAGE, read_write, private, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            assert_eq!(libc::madvise(pages, PAGES * PAGE, libc::MADV_NOHUGEPAGE), 0);
            self.pages = pages.cast();
        }
        self.touch(0);
        self.next = 1;
    }
    fn perform(&mut self) {
        self.touch(self.next);
        self.next += 1;
    }
    fn after(&mut self) {
        // SAFETY: the memory is ours and not used afterwards.
        unsafe { libc::munmap(self.pages.cast(), PAGES * PAGE) };
    }
}

impl PageFault {
    fn touch(&mut self, page: usize) {
        assert!(page < PAGES);
        // SAFETY: `before` mapped that many pages.
        unsafe { self.pages.add(page * PAGE).write_volatile(1) };
    }
}

/// A signal to oneself, and back from its handler.
struct Signal;

extern "C" fn nothing(_signal: libc::c_int) {}

impl Signal {
    fn new() -> Self {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
        Signal
    }
}

impl Operation for Signal {
    fn name(&self) -> &'static str {
        "signal"
    }
    fn times(&self) -> u64 {
        50
    }
    fn perform(&mut self) {
        // SAFETY: there is a handler.
        unsafe { libc::raise(libc::SIGUSR1) };
    }
}
