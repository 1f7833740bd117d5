package devices

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"unicode/utf16"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"devicetrust/devices/tpm/tpmtest"
)

// Event types (TCG PC Client Platform Firmware Profile, section 10.4.1).
const (
	evSeparator         = 0x00000004
	evSCRTMVersion      = 0x00000008
	evVariableConfig    = 0x80000001
	evBootApplication   = 0x80000003
	evVariableAuthority = 0x800000e0
)

// measurement is one event of a firmware.
type measurement struct {
	pcr, typ uint32
	data     []byte
	// digest is of data where it is nil.
	digest []byte
}

// firmware measures as real ones do, and writes it down.
type firmware struct {
	measured []measurement
	// sha1 is the form of TPM 1.2: SHA-1 digests only.
	sha1 bool
}

// uefi is a small firmware with Secure Boot on or off.
func uefi(t testing.TB, secure bool) *firmware {
	t.Helper()
	ca, err := tpmtest.NewCA("Secure Boot", nil)
	if err != nil {
		t.Fatal(err)
	}
	signature := append(make([]byte, 16), ca.Certificate.Raw...) // owner, certificate
	list := signatureList(signature)
	state := byte(0)
	if secure {
		state = 1
	}
	fw := &firmware{measured: []measurement{
		{0, evSCRTMVersion, []byte("v\x001\x00"), nil},
		{7, evVariableConfig, variable("SecureBoot", []byte{state}), nil},
		{7, evVariableConfig, variable("PK", list), nil},
		{7, evVariableConfig, variable("KEK", list), nil},
		{7, evVariableConfig, variable("db", list), nil},
		{7, evVariableConfig, variable("dbx", nil), nil},
	}}
	for pcr := range uint32(8) {
		fw.measured = append(fw.measured, measurement{pcr, evSeparator, make([]byte, 4), nil})
	}
	fw.measured = append(fw.measured,
		measurement{7, evVariableAuthority, variable("db", signature), nil},
		measurement{4, evBootApplication, []byte("boot loader 1"), nil})
	return fw
}

// variable is UEFI_VARIABLE_DATA.
func variable(name string, data []byte) []byte {
	units := utf16.Encode([]rune(name))
	out := make([]byte, 16) // vendor GUID
	out = binary.LittleEndian.AppendUint64(out, uint64(len(units)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return append(out, data...)
}

// signatureList is EFI_SIGNATURE_LIST of type EFI_CERT_X509_GUID.
func signatureList(signature []byte) []byte {
	out := []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	out = binary.LittleEndian.AppendUint32(out, uint32(28+len(signature)))
	out = binary.LittleEndian.AppendUint32(out, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(signature)))
	return append(out, signature...)
}

func (m measurement) sum() []byte {
	if m.digest != nil {
		return m.digest
	}
	sum := sha256.Sum256(m.data)
	return sum[:]
}

// log is what the firmware writes down (section 10.2.2, TCG_PCR_EVENT2, after
// a first event that says so).
func (fw *firmware) log() []byte {
	var out []byte
	add32 := func(values ...uint32) {
		for _, v := range values {
			out = binary.LittleEndian.AppendUint32(out, v)
		}
	}
	if !fw.sha1 {
		out = specID(0x000b)
	}
	for _, m := range fw.measured {
		add32(m.pcr, m.typ)
		if fw.sha1 {
			sum := sha1.Sum(m.data)
			out = append(out, sum[:]...)
		} else {
			add32(1)
			out = append(binary.LittleEndian.AppendUint16(out, 0x000b), m.sum()...)
		}
		add32(uint32(len(m.data)))
		out = append(out, m.data...)
	}
	return out
}

// specID is the first event of a log with digests of these algorithms.
func specID(algorithms ...uint16) []byte {
	data := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(algorithms)))
	for _, alg := range algorithms {
		data = binary.LittleEndian.AppendUint16(data, alg)
		data = binary.LittleEndian.AppendUint16(data, 32)
	}
	data = append(data, 0)
	out := binary.LittleEndian.AppendUint32(nil, 0)
	out = binary.LittleEndian.AppendUint32(out, noAction)
	out = append(out, make([]byte, 20)...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

// pcrs are what a TPM has after the firmware has run.
func (fw *firmware) pcrs() []attest.PCR {
	pcrs := make([]attest.PCR, pcrCount)
	for n := range pcrs {
		pcrs[n] = attest.PCR{Index: n, Digest: make([]byte, 32), DigestAlg: 5} // crypto.SHA256
	}
	for _, m := range fw.measured {
		if m.typ == noAction {
			continue
		}
		sum := sha256.Sum256(append(append([]byte{}, pcrs[m.pcr].Digest...), m.sum()...))
		pcrs[m.pcr].Digest = sum[:]
	}
	return pcrs
}

// boot extends a machine's PCRs as the firmware does.
func (fw *firmware) boot(t testing.TB, m *machine) {
	t.Helper()
	for _, event := range fw.measured {
		extend(t, m, event.pcr, event.sum())
	}
}

func extend(t testing.TB, m *machine, pcr uint32, digest []byte) {
	t.Helper()
	m.chip.Do(t, func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
		}.Execute(c)
		return err
	})
}
