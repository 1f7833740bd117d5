package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"devicetrust/identity"
)

// account is a user of this machine.
type account struct {
	name        string
	uid, gid    uint32
	groups      []uint32 // supplementary, gid among them
	home, shell string
}

// accounts looks users up: in the files first, then, for users who come from
// a directory, with getent(1) and id(1). The C library would do it in this
// process, and whatever it loads (nsswitch.conf(5)) would be root here.
type accounts struct {
	passwd, group, shadow string
	// getent and id are programs; empty: only the files.
	getent, id string
	// unprivileged: we are not root, and shadow may be kept from us.
	unprivileged bool
}

// systemAccounts are this machine's.
func systemAccounts() accounts {
	return accounts{
		passwd: "/etc/passwd", group: "/etc/group", shadow: "/etc/shadow",
		getent: "/usr/bin/getent", id: "/usr/bin/id",
		unprivileged: os.Geteuid() != 0,
	}
}

// errNoAccount: the login is nobody here.
var errNoAccount = errors.New("there is no such account on this node")

// lookup gives the account of login. An account that may not be used
// (expired, without a shell that can be run) is an error that says why.
func (a accounts) lookup(ctx context.Context, login string, now time.Time) (account, error) {
	if err := identity.CheckLogin(login); err != nil {
		return account{}, err
	}
	acc, shadow, err := a.find(ctx, login)
	if err != nil {
		return account{}, err
	}
	if err := checkExpiry(shadow, now); err != nil {
		return account{}, err
	}
	return acc, checkShell(acc.shell)
}

// find gives an account and its entry of shadow(5), "" where it has none.
func (a accounts) find(ctx context.Context, login string) (acc account, shadow string, err error) {
	line, err := findLine(a.passwd, login)
	if err != nil {
		return account{}, "", err
	}
	if line == "" {
		if acc, err = a.findInDirectory(ctx, login); err != nil {
			return account{}, "", err
		}
		if shadow, err = output(ctx, a.getent, "shadow", "--", login); err != nil {
			return account{}, "", unknownExpiry(err)
		}
		return acc, shadow, nil
	}
	if acc, err = parsePasswd(line); err != nil {
		return account{}, "", err
	}
	if acc.groups, err = a.localGroups(acc); err != nil {
		return account{}, "", err
	}
	if shadow, err = findLine(a.shadow, login); err != nil && !a.excuses(err) {
		return account{}, "", unknownExpiry(err)
	}
	return acc, shadow, nil
}

// excuses tells whether shadow may go unread: on a machine without shadow
// passwords, and where they are for root only.
func (a accounts) excuses(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || a.unprivileged && errors.Is(err, fs.ErrPermission)
}

func unknownExpiry(err error) error {
	return fmt.Errorf("it is not known whether the account has expired: %w", err)
}

// findLine gives the first line of a colon-separated file whose first field
// is name, as the C library does; "" where there is none.
func findLine(path, name string) (string, error) {
	var found string
	err := eachLine(path, func(line string) bool {
		if first, _, ok := strings.Cut(line, ":"); ok && first == name {
			found = line
			return false
		}
		return true
	})
	return found, err
}

func eachLine(path string, visit func(string) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot look up accounts: %w", err)
	}
	defer f.Close()
	all := &io.LimitedReader{R: f, N: maxAccountFile + 1}
	lines := bufio.NewScanner(all)
	lines.Buffer(nil, maxAccountFile+1)
	for lines.Scan() {
		if !visit(lines.Text()) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	if all.N == 0 { // what was sought may stand in the rest
		return fmt.Errorf("%s is larger than %d bytes", path, maxAccountFile)
	}
	return nil
}

// parsePasswd reads a line of passwd(5).
func parsePasswd(line string) (account, error) {
	f := strings.Split(line, ":")
	if len(f) != 7 {
		return account{}, fmt.Errorf("the account's passwd entry has %d fields and not 7", len(f))
	}
	uid, err1 := parseID(f[2])
	gid, err2 := parseID(f[3])
	if err := errors.Join(err1, err2); err != nil {
		return account{}, err
	}
	acc := account{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}
	if acc.shell == "" {
		acc.shell = "/bin/sh" // passwd(5)
	}
	if !filepath.IsAbs(acc.shell) {
		return account{}, fmt.Errorf("the account's shell %q is not an absolute path", acc.shell)
	}
	return acc, nil
}

// parseID refuses (uid_t)-1, which setresuid(2) takes for "leave as it is".
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("the account's id %q is not one", s)
	}
	return uint32(n), nil
}

func (a accounts) localGroups(acc account) ([]uint32, error) {
	groups := []uint32{acc.gid}
	err := eachLine(a.group, func(line string) bool {
		f := strings.Split(line, ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), acc.name) {
			return true
		}
		if gid, err := parseID(f[2]); err == nil && !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
		return len(groups) < maxGroups
	})
	return groups, err
}

func (a accounts) findInDirectory(ctx context.Context, login string) (account, error) {
	if a.getent == "" {
		return account{}, errNoAccount
	}
	line, err := output(ctx, a.getent, "passwd", "--", login)
	if err != nil {
		return account{}, err
	}
	if line == "" {
		return account{}, errNoAccount
	}
	acc, err := parsePasswd(line)
	if err != nil {
		return account{}, err
	}
	if acc.name != login {
		// Some directories answer for other spellings; policy and the
		// record are about this one.
		return account{}, errNoAccount
	}
	ids, err := output(ctx, a.id, "-G", "--", login)
	if err != nil {
		return account{}, err
	}
	acc.groups = []uint32{acc.gid}
	for _, s := range strings.Fields(ids) {
		gid, err := parseID(s)
		if err != nil {
			return account{}, err
		}
		if !slices.Contains(acc.groups, gid) && len(acc.groups) < maxGroups {
			acc.groups = append(acc.groups, gid)
		}
	}
	return acc, nil
}

// output runs a program without input or environment and gives its first
// line; "" where it says that there is nothing by getent(1)'s status for that.
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, getentTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.WaitDelay = getentTimeout
	var out bounded
	cmd.Stdout = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == getentNothing {
		return "", nil
	}
	line, _, whole := strings.Cut(string(out.text), "\n")
	if err == nil && !whole && len(out.text) == maxGetent {
		err = fmt.Errorf("a line of more than %d bytes", maxGetent)
	}
	if err != nil {
		return "", fmt.Errorf("cannot look up the account with %s: %w", filepath.Base(program), err)
	}
	return line, nil
}

// getentNothing is getent(1)'s exit status for a key that is not there.
const getentNothing = 2

// bounded keeps the first maxGetent bytes.
type bounded struct{ text []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxGetent-len(b.text))]...)
	return len(p), nil
}

// checkExpiry refuses an account whose day of expiry (shadow(5), field 8) has
// come: "usermod --expiredate 1" is how administrators close an account for
// keys too. A locked password ("!") closes only the password, as with sshd
// under PAM; cloud images lock them all. Nor does a password that is too old
// (fields 3 to 7) keep anybody out who does not use it.
func checkExpiry(shadow string, now time.Time) error {
	f := strings.Split(shadow, ":")
	if len(f) < 8 || f[7] == "" {
		return nil
	}
	day, err := strconv.ParseInt(f[7], 10, 32)
	if err != nil {
		return fmt.Errorf("the account's day of expiry %q is not a number", f[7])
	}
	if day >= 0 && now.Unix()/(24*60*60) >= day {
		return errors.New("the account has expired")
	}
	return nil
}

// checkShell is what sshd asks of a shell (auth.c, allowed_user): that it is
// there, a file, and can be run.
func checkShell(shell string) error {
	info, err := os.Stat(shell)
	if err != nil {
		return fmt.Errorf("the account's shell %q does not exist", shell)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("the account's shell %q is not executable", shell)
	}
	return nil
}
