package tpm

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"unicode"

	"devicetrust/api"
)

// isForAPerson fails unless err is a refusal of one line in a person's words,
// with a remedy that has hint in it.
func isForAPerson(t *testing.T, err error, message, hint string) {
	t.Helper()
	var r *api.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("%v is no refusal", err)
	}
	if !strings.Contains(err.Error(), message) || !strings.Contains(r.Hint, hint) {
		t.Errorf("got %q and %q, want %q and %q in them", err, r.Hint, message, hint)
	}
	for _, internal := range []string{"\n", "EOF", "context", "RC_", "parameter", "tpm:", "syscall", "0xc0"} {
		if strings.Contains(err.Error(), internal) {
			t.Errorf("%q is in %q", internal, err)
		}
	}
	if first := rune(r.Hint[0]); !unicode.IsUpper(first) {
		t.Errorf("the hint %q does not begin in upper case", r.Hint)
	}
}

// fails is what a TPM says that answers every command so.
func fails(t *testing.T, answer func(net.Conn)) error {
	t.Helper()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go answer(theirs)
	_, err := (newTPM(&socket{ours})).EKPublicDER(t.Context())
	return err
}

func TestATPMThatFailsIsToldWithARemedy(t *testing.T) {
	for code, want := range map[uint32][2]string{
		0x921: {"locked after wrong passwords", "minutes to hours"},
		0x98e: {"endorsement hierarchy has a password", "firmware settings"},
		0x9a2: {"endorsement hierarchy has a password", "firmware settings"},
		0x185: {"turned that off", "firmware settings"},
		0x902: {"other programs have filled it", "/dev/tpmrm0"},
		0x101: {"error 0x101", "Restart the machine"},
		0x1d5: {"error 0x1d5", "Restart the machine"},
	} {
		err := fails(t, func(conn net.Conn) {
			for {
				if _, err := conn.Read(make([]byte, 512)); err != nil {
					return
				}
				conn.Write(response(code))
			}
		})
		isForAPerson(t, err, "the TPM cannot read the certificate of its endorsement key: ", want[1])
		isForAPerson(t, err, want[0], want[1])
	}
	isForAPerson(t, fails(t, func(conn net.Conn) {
		conn.Read(make([]byte, 512))
		conn.Close()
	}), "it closed the connection", "runs")
	isForAPerson(t, fails(t, func(conn net.Conn) {
		conn.Read(make([]byte, 512))
		conn.Write(response(0)[:5])
		conn.Close()
	}), "it closed the connection", "runs")
	synctest.Test(t, func(t *testing.T) {
		isForAPerson(t, fails(t, func(conn net.Conn) { conn.Read(make([]byte, 512)) }), "it does not answer", "Another program")
	})
}

func TestEveryConversationTellsWhatTheTPMFailedToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := remember(path, "a", enrolledIn("a")); err != nil {
		t.Fatal(err)
	}
	for want, talk := range map[string]func(*TPM) error{
		"read its own properties": func(chip *TPM) error {
			_, _, err := chip.Info(t.Context())
			return err
		},
		"make the attestation key": func(chip *TPM) error {
			_, err := chip.Enroll(t.Context(), EnrollArgs{StatePath: path, Cluster: "a"}, nil)
			return err
		},
		"read its own properties ": func(chip *TPM) error {
			args := AuthArgs{StatePath: path}
			args.Binding.Cluster = "a"
			_, err := chip.Authenticate(t.Context(), args, nil)
			return err
		},
	} {
		ours, theirs := net.Pipe()
		go func() {
			theirs.Read(make([]byte, 512))
			theirs.Close()
		}()
		err := talk(newTPM(&socket{ours}))
		isForAPerson(t, err, "the TPM cannot "+strings.TrimSpace(want)+": it closed the connection", "runs")
	}
}

// A device that is busy, or not for us, is nothing that a test can make.
func TestADeviceThatCannotBeOpenedIsToldWithARemedy(t *testing.T) {
	busy := openRefusal("/dev/tpm0", &fs.PathError{Op: "open", Path: "/dev/tpm0", Err: syscall.EBUSY})
	isForAPerson(t, busy, `"/dev/tpm0": another program has it`, "/dev/tpmrm0")
	denied := openRefusal("/dev/tpmrm0", &fs.PathError{Op: "open", Path: "/dev/tpmrm0", Err: os.ErrPermission})
	isForAPerson(t, denied, `"/dev/tpmrm0": permission denied`, "udev")
	isForAPerson(t, openRefusal("x", errAddress), "the form is", "DTSH_TPM")
	isForAPerson(t, openRefusal("unix:/x", failedTo("list what it holds", context.DeadlineExceeded)), `"unix:/x": it does not answer`, "Another program")
}

func TestAStateFileThatCannotBeUsedIsNamedWithARemedy(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "state.json")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Enrolled(folder, "a")
	isForAPerson(t, err, "cannot read the device's enrollments in "+folder+": is a directory", "permissions")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = reserve(filepath.Join(file, "device", "state.json"))
	isForAPerson(t, err, "device's enrollments", "permissions")
	temporary := &fs.PathError{Op: "open", Path: filepath.Join(folder, ".state.json-3277997802"), Err: os.ErrPermission}
	isForAPerson(t, unwritableState("/x/state.json", temporary), "cannot write the device's enrollments to /x/state.json: permission denied", "permissions")
	if strings.Contains(unwritableState("/x/state.json", temporary).Error(), "3277997802") {
		t.Error("a temporary name is shown")
	}
}
