/*
 * dtnoded-pam opens and closes PAM sessions for dtnoded, which is built
 * without the C library (docs/decisions/0011).
 *
 *   dtnoded-pam account SERVICE USER RHOST
 *       exits with 0 where PAM lets USER in; what it says is on stdout.
 *   dtnoded-pam session SERVICE USER RHOST TTY UID GID GROUPS HOME PROGRAM ARGV…
 *       runs PROGRAM as the account in a PAM session, and exits as it does.
 *
 * It is started by dtnoded as root, leads a session (setsid(2)), and is told
 * everything by its arguments; its environment is for PROGRAM. What it has to
 * say goes to descriptor 3 in the reports of node/helper: a step and a number,
 * until the end of file says that PROGRAM runs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <security/pam_appl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { SOCKET = 3, FAILED = 255 };

/* As in node/helper/pam.go. */
enum step { START = 64, ACCOUNT, CREDENTIALS, SESSION, IDENTITY, ENTER_HOME, HUSH, EXEC, FORK };

/* dtnoded sends this in place of SIGKILL: the session ends, and is closed. */
enum { END = SIGPWR };

/* ---- what is said ---- */

static void report(int fd, enum step step, int number)
{
	unsigned char b[5] = { step, (unsigned)number >> 24, (unsigned)number >> 16, (unsigned)number >> 8, number };

	if (write(fd, b, sizeof b) != sizeof b)
		_exit(FAILED); /* dtnoded is gone, and nobody wants the session */
}

/* say writes text of PAM's modules: as much as a terminal takes that nobody
 * reads yet. */
static void say(int fd, const char *text)
{
	static size_t left = 4000;
	char line[1024];
	int n = snprintf(line, sizeof line, "%s\n", text);

	if (n >= (int)sizeof line)
		n = sizeof line - 1;
	if (n < 0 || (size_t)n > left)
		return;
	left -= n;
	if (write(fd, line, n) != n)
		left = 0;
}

/* converse shows what PAM has to say, and answers nothing: there is nobody to
 * be asked. */
static int converse(int n, const struct pam_message **messages, struct pam_response **answers, void *data)
{
	int fd = *(int *)data;

	if (n <= 0 || n > PAM_MAX_NUM_MSG)
		return PAM_CONV_ERR;
	for (int i = 0; i < n; i++)
		if (messages[i]->msg_style != PAM_TEXT_INFO && messages[i]->msg_style != PAM_ERROR_MSG)
			return PAM_CONV_ERR;
	*answers = calloc(n, sizeof **answers);
	if (*answers == NULL)
		return PAM_BUF_ERR;
	for (int i = 0; i < n; i++)
		say(fd, messages[i]->msg);
	return PAM_SUCCESS;
}

/* ---- PAM ---- */

static pam_handle_t *pam;

static int begin(char **arg, const char *tty, int *says)
{
	static struct pam_conv conversation;
	int code;

	conversation.conv = converse;
	conversation.appdata_ptr = says;
	code = pam_start(arg[0], arg[1], &conversation, &pam);
	if (code == PAM_SUCCESS)
		code = pam_set_item(pam, PAM_RHOST, arg[2]);
	if (code == PAM_SUCCESS)
		code = pam_set_item(pam, PAM_TTY, tty);
	return code;
}

static int account(char **arg)
{
	int says = STDOUT_FILENO, code;

	code = begin(arg, "ssh", &says);
	if (code == PAM_SUCCESS)
		code = pam_acct_mgmt(pam, 0);
	if (code != PAM_SUCCESS)
		say(says, pam_strerror(pam, code));
	if (pam != NULL)
		pam_end(pam, code);
	return code != PAM_SUCCESS;
}

/* refuse does not return. */
static void refuse(enum step step, int code)
{
	if (pam != NULL)
		pam_end(pam, code);
	report(SOCKET, step, code);
	_exit(FAILED);
}

static void must(enum step step, int code)
{
	if (code != PAM_SUCCESS)
		refuse(step, code);
}

static void close_session(void)
{
	int code = pam_close_session(pam, 0);

	pam_setcred(pam, PAM_DELETE_CRED);
	pam_end(pam, code);
}

/* ---- signals ---- */

static void pass(int sig) { (void)sig; }

/* outlive makes this process outlive what ends a session, and leaves to the
 * programs that PAM's modules start how they take it: a handler, unlike a mask,
 * does not survive execve(2). What a fault of this program would raise for ever
 * under a handler is blocked; the fault itself is not. */
static void outlive(void)
{
	struct sigaction action = { .sa_handler = pass, .sa_flags = SA_RESTART };
	sigset_t faults;

	sigemptyset(&faults);
	sigaddset(&faults, SIGSEGV);
	sigaddset(&faults, SIGBUS);
	sigaddset(&faults, SIGFPE);
	sigaddset(&faults, SIGILL);
	sigprocmask(SIG_SETMASK, &faults, NULL);
	for (int sig = 1; sig < NSIG; sig++)
		if (sig != SIGCHLD && sig != SIGCONT && !sigismember(&faults, sig))
			sigaction(sig, &action, NULL);
}

static void default_signals(void)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &action, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* wait_for returns how the child ended. It is in a group of its own, to which
 * go the signals that this process gets, as the session's leader. */
static int wait_for(pid_t child)
{
	sigset_t all;
	siginfo_t info;
	int status;
	pid_t pid;

	sigfillset(&all);
	for (;;) {
		int sig = sigwaitinfo(&all, &info);

		switch (sig) {
		case SIGCHLD:
			while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
				if (pid != child)
					continue;
				if (!WIFSTOPPED(status))
					return status;
				/* Nobody is there to continue it. The kernel does not stop
				 * a session's first group either, where it leads. */
				kill(-child, SIGCONT);
			}
			break;
		case END:
			kill(-child, SIGKILL);
			break;
		case SIGCONT: case SIGTSTP: case SIGTTIN: case SIGTTOU: case SIGWINCH: case SIGURG: case -1:
			break;
		default:
			kill(-child, sig);
		}
	}
}

/* leave ends this process as the child has ended. */
static void leave(int status)
{
	struct rlimit none = { 0, 0 };

	if (WIFSIGNALED(status)) {
		setrlimit(RLIMIT_CORE, &none); /* it was not this program that failed */
		default_signals();
		kill(getpid(), WTERMSIG(status));
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : FAILED);
}

/* ---- the session's program ---- */

struct program {
	uid_t uid;
	gid_t gid;
	const char *home, *path;
	char **argv, **env;
	int terminal;
};

/* merged is env with what PAM's modules have set, which counts. */
static char **merged(char **env, char **more)
{
	size_t n = 0, m = 0;
	char **all;

	while (env[n] != NULL)
		n++;
	while (more != NULL && more[m] != NULL)
		m++;
	all = calloc(n + m + 1, sizeof *all);
	if (all == NULL)
		return NULL;
	memcpy(all, env, n * sizeof *env);
	for (size_t i = 0; i < m; i++) {
		size_t name = strcspn(more[i], "=") + 1, at = 0;

		while (at < n && strncmp(all[at], more[i], name) != 0)
			at++;
		all[at] = more[i];
		if (at == n)
			n++;
	}
	return all;
}

/* become does not return: it runs the program, or tells fd why not. */
static void become(const struct program *p, int fd, pid_t keeper)
{
	char **env = merged(p->env, pam_getenvlist(pam));

	if (env == NULL) {
		report(fd, EXEC, ENOMEM);
		_exit(FAILED);
	}
	setpgid(0, 0);
	if (p->terminal)
		tcsetpgrp(STDIN_FILENO, getpid()); /* SIGTTOU is blocked */
	/* The groups are those that the parent has by now: modules add some. */
	if (setresgid(p->gid, p->gid, p->gid) != 0 || setresuid(p->uid, p->uid, p->uid) != 0) {
		report(fd, IDENTITY, errno);
		_exit(FAILED);
	}
	/* Should the parent be killed, nobody waits for this process any more. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != keeper)
		_exit(FAILED); /* it was, before that */
	if (chdir(p->home) != 0) {
		if (p->home[0] != 0)
			report(SOCKET, ENTER_HOME, errno);
		if (chdir("/") != 0) {
			report(fd, EXEC, errno);
			_exit(FAILED);
		}
	}
	if (p->terminal && p->argv[0][0] == '-' && access(".hushlogin", F_OK) == 0)
		report(SOCKET, HUSH, 0);
	default_signals();
	execve(p->path, p->argv, env);
	report(fd, EXEC, errno);
	_exit(FAILED);
}

/* run gives the child once the program runs; a failure it tells fd, and gives
 * its report. */
static pid_t run(const struct program *p, unsigned char failure[5])
{
	int ends[2];
	pid_t child, keeper = getpid();
	ssize_t n;

	if (pipe2(ends, O_CLOEXEC) != 0 || (child = fork()) < 0) {
		failure[0] = FORK;
		failure[4] = errno;
		return -1;
	}
	if (child == 0)
		become(p, ends[1], keeper);
	close(ends[1]);
	do
		n = read(ends[0], failure, 5);
	while (n < 0 && errno == EINTR);
	close(ends[0]);
	if (n == 0)
		return child;
	wait_for(child);
	return -1;
}

static int set_groups(const char *list)
{
	size_t n = 1, i = 0;
	gid_t *groups;
	int code;

	for (const char *c = list; *c != 0; c++)
		n += *c == ',';
	groups = calloc(n, sizeof *groups);
	if (groups == NULL)
		return -1;
	while (*list != 0 && i < n) {
		char *end;

		groups[i++] = strtoul(list, &end, 10);
		if (end == list || (*end != ',' && *end != 0)) {
			errno = EINVAL;
			return -1;
		}
		list = *end == ',' ? end + 1 : end;
	}
	code = setgroups(i, groups);
	free(groups);
	return code;
}

/* An id is a number and nothing else; 2^32-1 would be "as it is". */
static int parse_id(const char *text, unsigned *id)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	*id = n;
	return errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == 0 && n < 0xffffffffUL ? 0 : -1;
}

/* silent gives up the session's files: who reads them is to see their end. */
static void silent(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= 2; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
	close(SOCKET);
}

static void session(char **arg)
{
	static char *bare[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	struct program p = { .home = arg[7], .path = arg[8], .argv = arg + 9, .env = environ, .terminal = arg[3][0] != 0 };
	unsigned char failure[5] = { 0 };
	int says = STDERR_FILENO, code, status;
	sigset_t all, before;
	pid_t child;

	fcntl(SOCKET, F_SETFD, FD_CLOEXEC);
	outlive();
	environ = bare; /* what is for the person's programs is not for root's */
	if (parse_id(arg[4], &p.uid) != 0 || parse_id(arg[5], &p.gid) != 0)
		refuse(IDENTITY, EINVAL);

	must(START, begin(arg, p.terminal ? arg[3] : "ssh", &says));
	must(ACCOUNT, pam_acct_mgmt(pam, 0));
	/* Before the credentials, which may be more groups (pam_group(8)). */
	if (set_groups(arg[6]) != 0)
		refuse(IDENTITY, errno);
	must(CREDENTIALS, pam_setcred(pam, PAM_ESTABLISH_CRED));
	code = pam_open_session(pam, 0);
	if (code != PAM_SUCCESS)
		pam_setcred(pam, PAM_DELETE_CRED);
	must(SESSION, code);

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	child = run(&p, failure);
	if (child > 0) {
		silent();
		status = wait_for(child);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	close_session();
	if (child > 0)
		leave(status);
	report(SOCKET, failure[0], failure[1] << 24 | failure[2] << 16 | failure[3] << 8 | failure[4]);
	_exit(FAILED);
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "account") == 0)
		return account(argv + 2);
	if (argc >= 12 && strcmp(argv[1], "session") == 0)
		session(argv + 2);
	fprintf(stderr, "dtnoded-pam is started by dtnoded\n");
	return 2;
}
