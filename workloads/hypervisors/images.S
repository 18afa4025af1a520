// The guest hypervisors as read-only data of the host's program, each from its begin to its end.
        .section .rodata
        .balign 16
        .globl  nestbench_hypervisor_svm_begin, nestbench_hypervisor_svm_end
        .globl  nestbench_hypervisor_vmx_begin, nestbench_hypervisor_vmx_end
nestbench_hypervisor_svm_begin:
        .incbin "svm.bin"
nestbench_hypervisor_svm_end:
nestbench_hypervisor_vmx_begin:
        .incbin "vmx.bin"
nestbench_hypervisor_vmx_end:
        .section .note.GNU-stack, "", @progbits
