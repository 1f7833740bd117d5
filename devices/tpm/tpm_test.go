package tpm_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"devicetrust/api"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
)

func open(t *testing.T, address string) *tpm.TPM {
	t.Helper()
	chip, err := tpm.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	return chip
}

func ekPublic(t *testing.T, address string) []byte {
	t.Helper()
	chip := open(t, address)
	defer chip.Close()
	der, err := chip.EKPublicDER(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newCA(t testing.TB, name string) *tpmtest.CA {
	t.Helper()
	ca, err := tpmtest.NewCA(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func certifiedKey(t *testing.T, cert []byte) []byte {
	t.Helper()
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(c.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestTheEndorsementKeyIsTheSameEveryTime(t *testing.T) {
	chip := tpmtest.Start(t)
	first := ekPublic(t, chip.Address)
	if again := ekPublic(t, chip.Address); !bytes.Equal(first, again) {
		t.Error("it changed between two looks")
	}
	chip.Clear(t)
	if cleared := ekPublic(t, chip.Address); !bytes.Equal(first, cleared) {
		t.Error("it changed when the TPM was cleared")
	}
	if other := ekPublic(t, tpmtest.Start(t).Address); bytes.Equal(first, other) {
		t.Error("another TPM has the same")
	}
	if n := chip.Loaded(t); n != 0 {
		t.Errorf("%d keys and sessions were left in the TPM", n)
	}
}

func TestTheCertificateSaysWhichKeyIsTheEndorsementKey(t *testing.T) {
	ca := newCA(t, "maker")
	ecc := tpmtest.Start(t, tpmtest.Certificate{CA: ca})
	if got := ekPublic(t, ecc.Address); !bytes.Equal(got, certifiedKey(t, ecc.EKCertificate)) {
		t.Error("the key is not that of the ECC certificate")
	}
	// Each is chosen before those that were put in before it.
	chip, last := tpmtest.Start(t), ""
	for _, c := range []tpmtest.Certificate{
		{P384: true}, {HighRange: true}, {HighRange: true, RSA: true}, {}, {RSA: true},
	} {
		c.CA = ca
		cert, err := tpmtest.Manufacture(chip.Address, c)
		if err != nil {
			t.Fatal(err)
		}
		got := ekPublic(t, chip.Address)
		if !bytes.Equal(got, certifiedKey(t, cert)) || string(got) == last {
			t.Errorf("the key is not that of the certificate of %+v", c)
		}
		last = string(got)
	}
}

func TestWhatDeadProgramsLeftInTheTPMIsFlushed(t *testing.T) {
	chip := tpmtest.Start(t)
	chip.Do(t, func(c transport.TPM) error {
		for range 3 { // all the slots it has
			if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(c); err != nil {
				return err
			}
		}
		_, err := tpm2.StartAuthSession{
			TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, SessionType: tpm2.TPMSEPolicy, AuthHash: tpm2.TPMAlgSHA256,
			NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)}, Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		}.Execute(c)
		return err
	})
	if n := chip.Loaded(t); n != 4 {
		t.Fatalf("%d handles are loaded, the test wants 4", n)
	}
	ekPublic(t, chip.Address)
	if n := chip.Loaded(t); n != 0 {
		t.Errorf("%d handles are still loaded", n)
	}
}

func TestATPMSaysWhoMadeIt(t *testing.T) {
	manufacturer, firmware, err := open(t, tpmtest.Start(t).Address).Info(t.Context())
	if err != nil || manufacturer != "IBM" || !strings.Contains(firmware, ".") {
		t.Errorf("got %q, %q, %v", manufacturer, firmware, err)
	}
}

// garbage listens and answers everything with what is no TPM's answer.
func garbage(t *testing.T, answer string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 64))
			conn.Write([]byte(answer))
			conn.Close()
		}
	}()
	return "tcp:" + l.Addr().String()
}

func TestATPMThatCannotBeOpenedIsARefusalWithARemedy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := tpmtest.Start(t).Address
	for _, test := range []struct {
		name, address, message, hint string
		is                           error
	}{
		{"no such device", dir + "/tpmrm0", "no such file", "firmware settings", fs.ErrNotExist},
		{"a file", file, "not a device", "DTSH_TPM", nil},
		{"a socket without unix:", strings.TrimPrefix(socket, "unix:"), "write unix:/", "DTSH_TPM", nil},
		{"no such socket", "unix:" + dir + "/sock", "no such file", "software TPM", fs.ErrNotExist},
		{"no form", "swtpm", "the form is", "unset it", nil},
		{"no path", "unix:", "the form is", "unset it", nil},
		{"another protocol", garbage(t, "SSH-2.0-OpenSSH_9.2p1\r\n"), "not one of a TPM 2.0", "DTSH_TPM", nil},
		{"a short answer", garbage(t, "\x80\x01\x00\x00\x00\x02\x00\x00\x00\x00"), "not one of a TPM 2.0", "DTSH_TPM", nil},
		{"no answer", garbage(t, ""), "it closed the connection", "DTSH_TPM", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			chip, err := tpm.Open(t.Context(), test.address)
			if err == nil {
				chip.Close()
				t.Fatal("it was opened")
			}
			var r *api.Refusal
			if !errors.As(err, &r) {
				t.Fatalf("%v is no refusal", err)
			}
			if !strings.HasPrefix(r.Message, "Failed to open the TPM device") || !strings.Contains(r.Message, test.message) || !strings.Contains(r.Hint, test.hint) {
				t.Errorf("got %q and %q, want %q and %q in them", r.Message, r.Hint, test.message, test.hint)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
		})
	}
}

// mute gives the address of what hears commands and never answers; heard is
// called with each command.
func mute(t *testing.T, heard func()) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			conn.Read(make([]byte, 64))
			heard()
		}
	}()
	return "tcp:" + l.Addr().String()
}

func TestCtrlCEndsTheOpeningOfATPMThatHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now()
	chip, err := tpm.Open(ctx, mute(t, cancel))
	if err == nil {
		chip.Close()
		t.Fatal("it was opened")
	}
	var r *api.Refusal
	if !errors.Is(err, context.Canceled) || errors.As(err, &r) {
		t.Errorf("got %#v, want that the person gave up", err)
	}
	// A TPM has 20 s to answer; a loaded machine may take some to notice.
	if waited := time.Since(start); waited > 15*time.Second {
		t.Errorf("ended after %v", waited)
	}
}

func TestSoftwareTPMsOverTCP(t *testing.T) {
	// swtpm over TCP speaks as over a UNIX socket; a relay shows it.
	chip := tpmtest.Start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go relay(l, strings.TrimPrefix(chip.Address, "unix:"))
	if got, want := ekPublic(t, "tcp:"+l.Addr().String()), ekPublic(t, chip.Address); !bytes.Equal(got, want) {
		t.Error("it has another key over TCP")
	}
}

func relay(l net.Listener, socket string) {
	in, err := l.Accept()
	if err != nil {
		return
	}
	defer in.Close()
	out, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		defer in.Close()
		copyAll(in, out)
	}()
	copyAll(out, in)
}

func copyAll(to, from net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// The example needs a TPM, so it is not run.
func Example() {
	chip, err := tpm.Open(context.Background(), "") // the machine's own
	if err != nil {
		return // the error is a refusal with a remedy
	}
	defer chip.Close()
	der, err := chip.EKPublicDER(context.Background())
	if err != nil {
		return
	}
	pem.Encode(os.Stdout, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
}
