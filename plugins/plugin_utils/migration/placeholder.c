/* SPDX-License-Identifier: Apache-2.0
 *
 * The first process of a container from which, or into which, an application moves directly.
 *
 *   placeholder COMMAND [ARGUMENT...]
 *	waits for an application that was the first process of its container, and is one of a
 *	namespace of process ids of its own here
 *   placeholder --child COMMAND [ARGUMENT...]
 *	waits for an application that was the child of this program, and is it again
 *   placeholder --init COMMAND [ARGUMENT...]
 *	waits for none: runs COMMAND as its child at once
 *
 * It reaps what ends, and passes signals on to the application as soon as there is one. When
 * that ends, it ends as well, in the same way. A container that is started again after an
 * application has come, which is told by the file MOVED, runs COMMAND instead: the application as
 * the pod's manifest has it, as its child if it was one.
 *
 * It uses no library, since it has to run in whatever image the application has.
 */

#define MOVED "/.flowferry/moved" /* has the application's process id, as this process sees it */

typedef unsigned long word;

#if defined(__x86_64__)
enum { OPEN = 257, READ = 0, CLOSE = 3, PROCMASK = 14, SIGWAIT = 128, EXEC = 59, END = 231, WAIT = 61, KILL = 62,
       CLONE = 56, SESSION = 112 };
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n hlt\n");

static word call(word number, word a, word b, word c, word d)
{
	word result;
	register word fourth __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum { OPEN = 56, READ = 63, CLOSE = 57, PROCMASK = 135, SIGWAIT = 137, EXEC = 221, END = 94, WAIT = 260, KILL = 129,
       CLONE = 220, SESSION = 157 };
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n bl begin\n brk #0\n");

static word call(word number, word a, word b, word c, word d)
{
	register word r8 __asm__("x8") = number, r0 __asm__("x0") = a, r1 __asm__("x1") = b;
	register word r2 __asm__("x2") = c, r3 __asm__("x3") = d;
	__asm__ volatile("svc #0" : "+r"(r0) : "r"(r8), "r"(r1), "r"(r2), "r"(r3) : "memory");
	return r0;
}
#else
#error "no system calls are known for this architecture"
#endif

enum { HERE = -100, ONLY_READ = 0, BLOCK = 0, SET = 2, NOT_BLOCKING = 1 };
enum { INTERRUPT = 2, QUIT = 3, TERMINATE = 15, CHILD = 17 };

static void end(int status)
{
	for (;;)
		call(END, status, 0, 0, 0);
}

static long child; /* what this process has started, if it has */

/* The application's process id; 0 before it is here, -1 if nothing was ever moved here. */
static long application(void)
{
	char text[24];
	long pid = 0, size, at, file;
	if (child)
		return child;
	file = call(OPEN, HERE, (word)MOVED, ONLY_READ, 0);
	if (file < 0)
		return -1;
	size = call(READ, file, (word)text, sizeof text, 0);
	call(CLOSE, file, 0, 0, 0);
	for (at = 0; at < size && text[at] >= '0' && text[at] <= '9'; at++)
		pid = 10 * pid + text[at] - '0';
	return pid;
}

static const char *variable(char **environment, const char *name)
{
	for (; *environment; environment++) {
		long at = 0;
		while (name[at] && (*environment)[at] == name[at])
			at++;
		if (!name[at] && (*environment)[at] == '=')
			return *environment + at + 1;
	}
	return 0;
}

/* As execvpe() does: a command without a slash is looked for in PATH. Returns if there is none. */
static void run(char **command, char **environment)
{
	const char *path = variable(environment, "PATH"), *letter;
	char file[4096];
	for (letter = command[0]; *letter && *letter != '/'; letter++)
		;
	if (*letter) {
		call(EXEC, (word)command[0], (word)command, (word)environment, 0);
		return;
	}
	if (!path)
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	while (*path) {
		unsigned long size = 0;
		while (*path && *path != ':' && size < sizeof file - 2)
			file[size++] = *path++;
		file[size++] = '/';
		for (letter = command[0]; *letter && size < sizeof file - 1; letter++)
			file[size++] = *letter;
		file[size] = 0;
		call(EXEC, (word)file, (word)command, (word)environment, 0);
		while (*path && *path != ':')
			path++;
		if (*path)
			path++;
	}
}

static void reap(void)
{
	int status;
	long pid;
	while ((pid = call(WAIT, -1, (word)&status, NOT_BLOCKING, 0)) > 0)
		if (pid == application())
			end(status & 0x7f ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
}

static int is_same(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

/* The application leads a session of its own: CRIU brings no session that begins elsewhere. */
static void start(char **command, char **environment, word mask)
{
	child = call(CLONE, CHILD, 0, 0, 0);
	if (child < 0)
		end(126);
	if (child)
		return;
	call(SESSION, 0, 0, 0, 0);
	call(PROCMASK, SET, (word)&mask, 0, sizeof mask);
	run(command, environment);
	end(127);
}

static void pass_on(word all)
{
	reap();
	for (;;) {
		long number = call(SIGWAIT, (word)&all, 0, 0, sizeof all);
		long pid = application();
		if (number == CHILD)
			reap();
		else if (number > 0 && pid > 0)
			call(KILL, pid, number, 0, 0);
		else if (number == TERMINATE || number == INTERRUPT || number == QUIT)
			end(128 + number);
	}
}

void begin(word *stack)
{
	char **command = (char **)(stack + 2); /* after the number of arguments, and our own name */
	char **environment = (char **)(stack + 2 + stack[0]);
	int is_init = command[0] && is_same(command[0], "--init");
	int is_parent = is_init || (command[0] && is_same(command[0], "--child"));
	int starts = is_init || application() >= 0;
	word all = ~0UL, mask = 0;
	command += is_parent;
	if (!command[0])
		end(64);
	if (starts && !is_parent) {
		run(command, environment);
		end(127);
	}
	call(PROCMASK, BLOCK, (word)&all, (word)&mask, sizeof all);
	if (starts)
		start(command, environment, mask);
	pass_on(all);
}
