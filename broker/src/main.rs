//! The `aqueduct` binary: see [`cli`].

mod cli;

/// Many small buffers of different sizes live and die on the publish path; the system allocator keeps more of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    cli::main()
}
