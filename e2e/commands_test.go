package e2e

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/e2e/stage"
	"devicetrust/store/storetest"
)

// commands are what scripts can say besides testscript's own. testdata/README
// explains each to who writes a script.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"authd":    cmdAuthd,
	"noded":    cmdNoded,
	"sshd":     cmdSSHD,
	"laptop":   cmdLaptop,
	"tpm":      cmdTPM,
	"maker":    cmdMaker,
	"halt":     onDaemon(func(d *stage.Daemon) error { return d.Stop(context.Background()) }),
	"kill-9":   onDaemon(func(d *stage.Daemon) error { return d.Kill() }),
	"start":    cmdStart,
	"hangup":   onDaemon(func(d *stage.Daemon) error { return d.Signal(syscall.SIGHUP) }),
	"handover": onDaemon(func(d *stage.Daemon) error { return d.HandOver(context.Background()) }),
	"running":  onDaemon(running),
	"logged":   cmdLogged,
	"postgres": cmdPostgres,
	"tmpfs":    cmdTmpfs,
	"exits":    cmdExits,
	"until":    cmdUntil,
	"getjson":  cmdGetJSON,
	"json":     cmdJSON,
	"converse": cmdConverse,
	"live":     cmdLive,
	"cut":      cmdCut,
	"closed":   cmdClosed,
	"goes-on":  cmdGoesOn,
	"garbage":  cmdGarbage,
	"sql":      cmdSQL,
	"jamf":     cmdJamf,
}

// set is the stage of one script and who stands on it.
type set struct {
	*stage.Stage
	daemons map[string]*stage.Daemon
	tpms    map[string]*stage.TPM
	stalls  map[string]*stage.Stall
	makers  map[string]*tpmtest.CA
	alive   map[string]*alive
}

type setKey struct{}

func setOf(ts *testscript.TestScript, neg bool) *set {
	if neg {
		ts.Fatalf("this command cannot be negated")
	}
	s, ok := ts.Value(setKey{}).(*set)
	if !ok {
		ts.Fatalf("the script has no stage")
	}
	return s
}

// usage ends the script where the number of arguments is wrong.
func usage(ts *testscript.TestScript, args []string, atLeast int, form string) {
	if len(args) < atLeast {
		ts.Fatalf("usage: %s", form)
	}
}

// name takes the name before the flags, where there is one.
func name(args []string, preset string) (string, []string) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return preset, args
	}
	return args[0], args[1:]
}

// authd [NAME] [FLAG…] starts a dtauthd; the first one started is the one
// that $PROXY and $PIN tell of.
func cmdAuthd(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	name, flags := name(args, "authd")
	d, err := s.Authd(context.Background(), name, flags...)
	ts.Check(err)
	s.daemons[name] = d
	tellAddress(ts, name, d)
	if ts.Getenv("PROXY") == "" {
		pin, err := d.Pin(context.Background())
		ts.Check(err)
		ts.Setenv("PROXY", d.Addr)
		ts.Setenv("PIN", pin)
	}
}

// noded NAME [FLAG…] lets a server join the cluster of the dtauthd called
// authd; $NAME_ADDR is where it serves.
func cmdNoded(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	usage(ts, args, 1, "noded NAME [FLAG…]")
	authd := s.daemons["authd"]
	if authd == nil {
		ts.Fatalf("noded comes after authd")
	}
	d, err := s.Noded(context.Background(), authd, args[0], args[1:]...)
	ts.Check(err)
	s.daemons[args[0]] = d
	tellAddress(ts, args[0], d)
	ts.Check(stage.Poll(context.Background(), func() bool {
		out, err := authd.DTCtl(context.Background(), "nodes", "ls")
		return err == nil && strings.Contains(out, args[0])
	}))
}

// sshd NAME [FILE] starts a stock sshd, with the lines of FILE at the end of its
// configuration, in a folder of root's. $NAME_ADDR and $NAME_PORT are where it
// listens, $NAME_DIR is its /etc/ssh, $NAME_CONFIG the file, and $NAME_DTNODED a
// dtnoded that it may run.
func cmdSSHD(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	usage(ts, args, 1, "sshd NAME [FILE]")
	var lines string
	if len(args) > 1 {
		lines = ts.ReadFile(args[1])
	}
	d, err := s.SSHD(context.Background(), args[0], lines)
	if d != nil {
		ts.Defer(func() {
			if err := d.Remove(); err != nil {
				ts.Logf("%v", err)
			}
		})
	}
	ts.Check(err)
	s.daemons[args[0]] = d.Daemon
	tellAddress(ts, args[0], d.Daemon)
	variable := strings.ToUpper(strings.ReplaceAll(args[0], "-", "_"))
	ts.Setenv(variable+"_DIR", d.Dir)
	ts.Setenv(variable+"_CONFIG", d.Config)
	ts.Setenv(variable+"_DTNODED", d.Noded)
}

var diagnosing = regexp.MustCompile(`msg=serving port=diag addr=(\S+)`)

// tellAddress sets $NAME_ADDR and $NAME_PORT, and where it has a port for
// diagnosis, $NAME_DIAG.
func tellAddress(ts *testscript.TestScript, name string, d *stage.Daemon) {
	variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	_, port, err := net.SplitHostPort(d.Addr)
	ts.Check(err)
	ts.Setenv(variable+"_ADDR", d.Addr)
	ts.Setenv(variable+"_PORT", port)
	if found := diagnosing.FindAllStringSubmatch(ts.ReadFile(d.Log), -1); found != nil {
		ts.Setenv(variable+"_DIAG", found[len(found)-1][1]) // of this run
	}
}

// start DAEMON starts it again, where it served before; it may diagnose
// elsewhere.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	onDaemon(func(d *stage.Daemon) error { return d.Restart(context.Background()) })(ts, neg, args)
	tellAddress(ts, args[0], setOf(ts, false).daemons[args[0]])
}

// laptop NAME [ASSET-TAG] sits down at the laptop of that name: its TPM (made
// the first time), its DTSH_HOME, its DMI tables.
func cmdLaptop(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	usage(ts, args, 1, "laptop NAME [ASSET-TAG]")
	name := args[0]
	dmi := filepath.Join(s.Dir, name+".dmi")
	if s.tpms[name] == nil {
		tag := strings.ToUpper(name)
		if len(args) > 1 {
			tag = args[1]
		}
		tpm, err := s.TPM(context.Background(), name)
		ts.Check(err)
		s.tpms[name] = tpm
		ts.Check(stage.DMI(dmi, tag))
	}
	ts.Setenv("DTSH_HOME", filepath.Join(s.Dir, name+".dtsh"))
	ts.Setenv("DTSH_TPM", s.tpms[name].Address())
	ts.Setenv("DTSH_DMI_DIR", dmi)
}

// maker NAME [ISSUER] makes the CA of a maker of TPMs, under the other one where
// that is named; its certificate is in $WORK/NAME.pem.
func cmdMaker(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	usage(ts, args, 1, "maker NAME [ISSUER]")
	var issuer *tpmtest.CA
	if len(args) > 1 {
		if issuer = s.makers[args[1]]; issuer == nil {
			ts.Fatalf("there is no maker %s", args[1])
		}
	}
	ca, err := tpmtest.NewCA(args[0], issuer)
	ts.Check(err)
	s.makers[args[0]] = ca
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pem"), text, 0o600))
}

// certify has a maker certify the endorsement key of a TPM, as it is asked for
// by words: rsa, p384, expired.
func certify(ts *testscript.TestScript, s *set, tpm *stage.TPM, args []string) {
	usage(ts, args, 1, "tpm certify NAME MAKER [rsa|p384] [expired]")
	c := tpmtest.Certificate{CA: s.makers[args[0]], RSA: slices.Contains(args, "rsa"), P384: slices.Contains(args, "p384")}
	if c.CA == nil {
		ts.Fatalf("there is no maker %s", args[0])
	}
	if slices.Contains(args, "expired") {
		c.NotAfter = time.Now().Add(-time.Hour)
	}
	_, err := tpmtest.Manufacture(tpm.Address(), c)
	ts.Check(err)
}

// tpm clear|replace|restart|stop NAME does it to a laptop's TPM. tpm extend NAME
// PCR measures something into it; tpm snapshot NAME and tpm rollback NAME are as
// of a virtual machine. tpm certify NAME MAKER
// [rsa|p384] [expired] gives it a certificate. tpm stall NAME enroll|login makes it think for ever in the middle of that ceremony; tpm
// stalled NAME waits until it does; tpm release NAME ends it.
func cmdTPM(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	usage(ts, args, 2, "tpm clear|replace|restart|extend|snapshot|rollback|certify|stop|stall|stalled|release NAME")
	tpm := s.tpms[args[1]]
	if tpm == nil {
		ts.Fatalf("there is no laptop %s", args[1])
	}
	switch args[0] {
	case "clear":
		ts.Check(tpm.Clear())
	case "replace":
		ts.Check(tpm.Replace(context.Background()))
	case "restart":
		ts.Check(tpm.Restart(context.Background()))
	case "extend":
		usage(ts, args, 3, "tpm extend NAME PCR")
		pcr, err := strconv.Atoi(args[2])
		ts.Check(err)
		ts.Check(tpm.Extend(pcr))
	case "snapshot":
		ts.Check(tpm.Snapshot())
	case "rollback":
		ts.Check(tpm.Rollback(context.Background()))
	case "certify":
		certify(ts, s, tpm, args[2:])
	case "stop":
		ts.Check(tpm.Kill())
	case "stall":
		usage(ts, args, 3, "tpm stall NAME enroll|login")
		command := uint32(stage.Quote)
		if args[2] == "enroll" {
			command = stage.ActivateCredential
		}
		stall, err := tpm.Stall(command)
		ts.Check(err)
		s.stalls[args[1]] = stall
		ts.Setenv("DTSH_TPM", stall.Address)
	case "stalled":
		ts.Check(stage.Poll(context.Background(), func() bool {
			select {
			case <-s.stalls[args[1]].Reached:
				return true
			default:
				return false
			}
		}))
	case "release":
		ts.Check(s.stalls[args[1]].Release())
		ts.Setenv("DTSH_TPM", tpm.Address())
	default:
		ts.Fatalf("unknown: tpm %s", args[0])
	}
}

// onDaemon makes a command that does act to the daemon of the given name.
func onDaemon(act func(*stage.Daemon) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		s := setOf(ts, neg)
		usage(ts, args, 1, "COMMAND DAEMON")
		d := s.daemons[args[0]]
		if d == nil {
			ts.Fatalf("there is no daemon %s", args[0])
		}
		ts.Check(act(d))
	}
}

func running(d *stage.Daemon) error {
	if d.Ended() {
		return fmt.Errorf("%s has ended", d.Name)
	}
	return nil
}

// [!] logged DAEMON PATTERN waits until the daemon's log matches; negated, it
// must not match now.
func cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, false)
	usage(ts, args, 2, "[!] logged DAEMON PATTERN")
	d := s.daemons[args[0]]
	if d == nil {
		ts.Fatalf("there is no daemon %s", args[0])
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	if neg {
		if found := pattern.FindString(ts.ReadFile(d.Log)); found != "" {
			ts.Fatalf("%s has logged %q", args[0], found)
		}
		return
	}
	_, err = d.WaitLog(context.Background(), pattern)
	ts.Check(err)
}

// postgres VAR puts the address of a fresh database into $VAR.
func cmdPostgres(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 1, "postgres VAR")
	t, ok := ts.Value(testKey{}).(testing.TB)
	if !ok {
		ts.Fatalf("the script has no test")
	}
	ts.Setenv(args[0], storetest.PostgresURL(t))
}

type testKey struct{}

// tmpfs DIR SIZE mounts a small disk.
func cmdTmpfs(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 2, "tmpfs DIR SIZE")
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(system("mount", "-t", "tmpfs", "-o", "size="+args[1], "dt-e2e", dir))
	ts.Defer(func() {
		// Lazily: the daemon on it may be a moment from its end.
		if err := system("umount", "-l", dir); err != nil {
			ts.Logf("%v", err)
		}
	})
}

// exits STATUS PROGRAM [ARG…] runs it and wants exactly that exit status.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 2, "exits STATUS PROGRAM [ARG…]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError) //nolint:errorlint // as testscript returns it
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, not %d", got, want)
	}
}

// until [!] [PATTERN] -- PROGRAM [ARG…] runs it again and again until it
// succeeds (with "!": fails) and PATTERN matches what it prints on stdout or
// stderr.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	fails := len(args) > 0 && args[0] == "!"
	if fails {
		args = args[1:]
	}
	pattern := regexp.MustCompile("")
	if i := slices.Index(args, "--"); i == 0 || i == 1 {
		var err error
		pattern, err = regexp.Compile("(?m)" + strings.Join(args[:i], ""))
		ts.Check(err)
		args = args[i+1:]
	}
	usage(ts, args, 1, "until [!] [PATTERN] -- PROGRAM [ARG…]")
	err := stage.Poll(context.Background(), func() bool {
		err := ts.Exec(args[0], args[1:]...)
		return (err != nil) == fails &&
			(pattern.MatchString(ts.ReadFile("stdout")) || pattern.MatchString(ts.ReadFile("stderr")))
	})
	if err != nil {
		ts.Fatalf("it never came: %v", err)
	}
}
