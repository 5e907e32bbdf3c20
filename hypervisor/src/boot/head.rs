//! From the boot loader to Rust: 32-bit protected mode to 64-bit, memory mapped one to one
//!
//! Multiboot 1 (section 3.2) and Multiboot2 (section 3.3) both enter at `_start` in 32-bit protected mode with paging
//! off, EAX the loader's magic, EBX its information. Everything else is set here: the state differs between firmwares.
use core::arch::global_asm;

global_asm!(
    r#"
    .section .multiboot, "a"
    .balign 8
multiboot2:
    .long 0xe85250d6, 0, multiboot2_end - multiboot2
    .long -(0xe85250d6 + (multiboot2_end - multiboot2))
    .short 6, 0             # modules page-aligned
    .long 8
    .short 0, 0             # end
    .long 8
multiboot2_end:
    .balign 4
    .long 0x1badb002, 3     # multiboot 1: modules page-aligned, memory map wanted
    .long -(0x1badb002 + 3)

    .section .boot, "ax"
    .code32
    .global _start
_start:
    cli
    cld
    mov %eax, %edi
    mov %ebx, %esi
    mov $boot_stack_top, %esp
    mov $0x80000001, %eax
    cpuid
    mov $(1 << 20 | 1 << 26 | 1 << 29), %eax   # no-execute, 1 GiB pages, long mode
    and %eax, %edx
    cmp %eax, %edx
    jne 4f
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0x20, %eax                             # CR4: PAE and nothing else
    mov %eax, %cr4
    mov $boot_pdpt, %ebx                        # 512 GiB, one to one, 1 GiB pages
    mov $0x83, %eax
    xor %edx, %edx
    mov $512, %ecx
2:  mov %eax, (%ebx)
    mov %edx, 4(%ebx)
    add $0x40000000, %eax
    adc $0, %edx
    add $8, %ebx
    loop 2b
    movl $boot_pdpt + 3, boot_pml4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx                       # EFER: LME, NXE
    mov $0x900, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80010031, %eax                       # CR0: PG, WP, NE, ET, PE
    mov %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $3f
4:  mov $boot_no_long_mode, %esi                # no UART driver yet: plain output on COM1
    mov $0x3f8, %edx
5:  lodsb
    test %al, %al
    jz 6f
    outb %al, %dx
    jmp 5b
6:  hlt
    jmp 6b
    .global ap_start32
ap_start32:                                     # an application processor, from boot/ap.rs
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x20, %eax
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    mov $0x900, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80010031, %eax
    mov %eax, %cr0
    ljmp $8, $7f
    .code64
7:  xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov {ap_stack}(%rip), %rsp
    mov {ap_vcpu}(%rip), %rdi
    xor %ebp, %ebp
    call {ap}
    ud2
3:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $boot_stack_top, %rsp
    xor %ebp, %ebp
    call {start}
    ud2

    .section .rodata
    .balign 8
boot_gdt:                                       # 64-bit code, data, 32-bit code
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
boot_gdtr:
    .short . - boot_gdt - 1
    .quad boot_gdt
boot_no_long_mode:
    .asciz "secvisor: cannot start: the processor lacks long mode, no-execute or 1 GiB pages\r\n"

    .global ap_start16
ap_start16:                                     # copied to a page of low memory
    .code16
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdtr - ap_start16
    mov $0x11, %eax                             # CR0: ET, PE; caches on
    mov %eax, %cr0
    ljmpl *(ap_far - ap_start16)
    .balign 4
ap_gdtr:
    .short 31
    .long boot_gdt
ap_far:
    .long ap_start32
    .short 24
    .global ap_start16_end
ap_start16_end:
    .code64

    .section .bss
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
    .global boot_stack
boot_stack:
    .skip 65536
boot_stack_top:
    .text
    "#,
    start = sym crate::start,
    ap = sym super::ap::start,
    ap_stack = sym super::ap::STACK,
    ap_vcpu = sym super::ap::VCPU,
    options(att_syntax),
);
