// SPDX-License-Identifier: GPL-2.0
/*
 * A module whose loading leaves a number behind that tells which function it called.
 *
 * The demonstration loads it once as it is, and once with the relocation of its call to gcd() pointing at lcm(),
 * which the kernel exports with the same signature.
 */
#include <linux/gcd.h>
#include <linux/init.h>
#include <linux/lcm.h>
#include <linux/module.h>

static unsigned long divisor;
module_param(divisor, ulong, 0444);
MODULE_PARM_DESC(divisor, "greatest common divisor of 12 and 18, found while loading");

static unsigned long multiple;
module_param(multiple, ulong, 0444);
MODULE_PARM_DESC(multiple, "least common multiple of 12 and 18, found while loading");

static int __init witness_init(void)
{
	divisor = gcd(12, 18);
	multiple = lcm(12, 18);
	return 0;
}

static void __exit witness_exit(void)
{
}

module_init(witness_init);
module_exit(witness_exit);
MODULE_DESCRIPTION("Tells which function it called while loading");
MODULE_LICENSE("GPL");
