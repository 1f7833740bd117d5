package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"devicetrust/feed"
	"devicetrust/policy"
)

func TestOnlyWhoLeadsSavesTheStateAndForgetsNothing(t *testing.T) {
	user := newSigner(t)
	m := &member{dir: t.TempDir()}
	if err := (savedIdentity{Version: savedIdentityVersion}).save(m.dir); err != nil {
		t.Fatal(err)
	}
	k := m.keeper(feed.File{Path: filepath.Join(m.dir, stateFile)})
	state := func(sequence uint64) *feed.State { return saying(t, user, sequence, policy.RoleSpec{}).state(t) }
	saved := func() uint64 {
		t.Helper()
		s, err := k.load("test", "node-1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return s.Sequence()
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(k.save(state(1)))
	if got := saved(); got != 0 {
		t.Errorf("before it leads it saves %d", got)
	}
	do(k.lead(true))
	if got := saved(); got != 1 {
		t.Errorf("what came before it led is not saved, but %d", got)
	}
	do(k.save(state(2)))
	do(k.lead(false))
	do(k.save(state(3)))
	if got := saved(); got != 2 {
		t.Errorf("it saves %d, though another one leads", got)
	}
	do(k.forget())
	if got := saved(); got != 2 {
		t.Error("it removes what is another one's")
	}
	do(k.lead(true))
	if got := saved(); got != 2 {
		t.Errorf("it saves %d, which it was to forget", got)
	}
	do(k.forget())
	do(k.forget())
	if got := saved(); got != 0 {
		t.Errorf("%d is there yet", got)
	}
}

func TestEachProcessHasASpoolOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	var locks []*os.File
	for i := range maxProcesses {
		path, lock, err := takeSpool(dir)
		if err != nil || path != filepath.Join(dir, spoolName(i)) {
			t.Fatalf("%d: %s, %v", i, path, err)
		}
		locks = append(locks, lock)
	}
	if path, _, err := takeSpool(dir); err == nil {
		t.Errorf("one too many has %s", path)
	}
	locks[3].Close()
	path, lock, err := takeSpool(dir)
	if err != nil || path != filepath.Join(dir, spoolName(3)) {
		t.Errorf("of one that ended: %s, %v", path, err)
	}
	locks[3] = lock
	for _, l := range locks {
		l.Close()
	}
}

func TestWhatProcessesThatEndedLeftIsSent(t *testing.T) {
	p := startPlane(t)
	config, _ := configFor(t, p)
	n, err := prepare(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	for i, uid := range map[int]string{3: "of one that ended", 4: "of one that lives"} {
		dir := filepath.Join(config.DataDir, spoolName(i))
		s, err := openSpool(dir, quiet())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.append(started(uid)); err != nil {
			t.Fatal(err)
		}
		s.close()
		if i == 4 {
			lock, err := lockSpool(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
		}
		if err := n.shipSpool(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(p, func() int { return len(p.events) }); got != 1 || p.events[0].UID != "of one that ended" {
		t.Errorf("%d records arrive: %+v", got, p.events)
	}
}

func TestASpoolOfSomebodyElsesIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/tmp", filepath.Join(dir, spoolName(5))); err != nil {
		t.Fatal(err)
	}
	if lock, err := openDataDir(dir, nil); err == nil {
		lock.Close()
		t.Error("a link is taken for a spool")
	}
}

func TestTheDataDirectoryIsTheNewestProcesss(t *testing.T) {
	p := startPlane(t)
	h := newHanded(t, p)
	h.start()
	c, err := h.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	long := converse(t, c)
	h.handOver()
	if lock, err := openDataDir(h.config.DataDir, nil); err == nil {
		lock.Close()
		t.Error("another one gets it while the successor serves")
	}
	h.signal(syscall.SIGTERM)
	h.ended(h.serving()[1])
	long.say("still here")
	lock, err := openDataDir(h.config.DataDir, nil)
	if err != nil {
		t.Fatalf("the process that handed over holds it: %v", err)
	}
	lock.Close()
}

func TestWhoHandedOverTakesRenewedCertificatesFromTheDisk(t *testing.T) {
	p := startPlane(t)
	config, _ := configFor(t, p)
	n, err := prepare(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	before := n.shown
	if err := n.reread(); err != nil || n.shown != before {
		t.Errorf("nothing is new, and it takes %v, %v", n.shown, err)
	}
	next, err := n.member.renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.reread(); err != nil || !n.shown.tls.Equal(next.tls) {
		t.Errorf("it has the old one yet: %v", err)
	}
	if err := os.WriteFile(filepath.Join(config.DataDir, identityFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.reread(); err == nil || !n.shown.tls.Equal(next.tls) {
		t.Errorf("of a broken file: %v", err)
	}
}

func TestASuccessorServesOnlyOnItsPredecessorsWord(t *testing.T) {
	for word, want := range map[string]bool{"G": true, "R": false, "": false} {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := os.NewFile(uintptr(ends[0]), "theirs"), os.NewFile(uintptr(ends[1]), "ours")
		if _, err := theirs.WriteString(word); err != nil {
			t.Fatal(err)
		}
		if word == "" {
			theirs.Close()
		}
		err = (&predecessor{conn: ours}).relieve()
		if (err == nil) != want {
			t.Errorf("after %q: %v", word, err)
		}
		theirs.Close()
	}
}

func TestWhoHandsOverLeadsOnlyWhereThereIsNoSuccessor(t *testing.T) {
	for name, tt := range map[string]struct {
		successor string
		want      bool
	}{
		"it serves":          {`printf R >&3; read go <&3`, true},
		"it ends":            {`exit 1`, false},
		"it says what is no": {`printf X >&3; read go <&3`, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := startPlane(t)
			config, _ := configFor(t, p)
			config.Command = []string{"/bin/sh", "-c", tt.successor}
			n, err := prepare(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer n.close()
			n.server = newServer(t.Context(), serverConfig{log: config.Log, now: config.Now, limits: defaultLimits(), states: n.states})
			defer n.server.sweeper.close()
			n.lead(t.Context())
			if got := n.handOver(t.Context(), t.Context()); got != tt.want {
				t.Errorf("handed over: %t", got)
			}
			if n.keeper.leads == tt.want {
				t.Errorf("it leads: %t", n.keeper.leads)
			}
			if !tt.want {
				n.stopLeading()
			}
		})
	}
}

func TestThereIsNoSuccessorWithoutACommand(t *testing.T) {
	if _, err := (&node{}).startSuccessor(); err == nil || !strings.Contains(err.Error(), "how this dtnoded was started") {
		t.Error(err)
	}
	n := &node{config: Config{Command: []string{"/no/such/program"}}, lock: os.Stdin}
	if _, err := n.startSuccessor(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
