package tpm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"devicetrust/devices/tpm/tpmtest"
)

// logged is a line to a TPM whose log the system has, or cannot read.
type logged struct {
	line
	log []byte
	err error
}

func (l logged) measurements() ([]byte, error) { return l.log, l.err }

func TestTheEventLogIsTheNamedOneOrTheSystems(t *testing.T) {
	dir := t.TempDir()
	file, large := filepath.Join(dir, "log"), filepath.Join(dir, "large")
	if err := os.WriteFile(file, []byte("named"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, make([]byte, maxEventLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	aDevice, aSocket := logged{log: []byte("system's")}, line(&socket{})
	for _, test := range []struct {
		name, path string
		line       line
		want       string
	}{
		{"a device", "", aDevice, "system's"},
		{"a device whose log is root's", "", logged{err: os.ErrPermission}, ""},
		{"a device and a file", file, aDevice, "named"},
		{"a device and off", NoEventLog, aDevice, ""},
		{"a socket", "", aSocket, ""},
		{"a socket and a file", file, aSocket, "named"},
		{"a socket and off", NoEventLog, aSocket, ""},
	} {
		got, err := newTPM(test.line).eventLog(test.path)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.want)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is a directory",
		large:                      "more than 1048576 bytes",
	} {
		_, err := newTPM(aSocket).eventLog(path)
		isForAPerson(t, err, want, "DTSH_TPM_EVENT_LOG")
	}
}

func TestAnEventLogThatCannotBeReadIsNoticedBeforeATokenIsSpent(t *testing.T) {
	chip, err := Open(t.Context(), tpmtest.Start(t).Address)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	path, none := filepath.Join(t.TempDir(), "state.json"), filepath.Join(t.TempDir(), "none")
	// There is no server: whoever sent something to it would panic.
	_, err = chip.Enroll(t.Context(), EnrollArgs{StatePath: path, Cluster: "a", EventLog: none}, nil)
	isForAPerson(t, err, "cannot read the event log", "DTSH_TPM_EVENT_LOG")
	if err := remember(path, "a", enrolledIn("a")); err != nil {
		t.Fatal(err)
	}
	args := AuthArgs{StatePath: path, EventLog: none}
	args.Binding.Cluster = "a"
	_, err = chip.Authenticate(t.Context(), args, nil)
	isForAPerson(t, err, "cannot read the event log", "DTSH_TPM_EVENT_LOG")
}

func TestTheEventLogGoesAlongWithTheQuote(t *testing.T) {
	address := tpmtest.Start(t).Address
	e := enrollChip(t, address, "example", "linux")
	chip, err := Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	defer holdFor(t, chip, t.Context())()
	ak, err := chip.enrolledAK("example", e)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.flush(ak.handle.Handle)
	p, err := chip.platform(ak, []byte("nonce"), []byte("log"))
	if err != nil || !bytes.Equal(p.GetEventLog(), []byte("log")) {
		t.Errorf("got %q, %v", p.GetEventLog(), err)
	}
}
