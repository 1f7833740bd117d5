package resource

import (
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/policy"
)

// everything is a resource of each kind with every field set that may be, but
// for the CAs of the preference, which seeds_test.go has.
func everything() []Resource {
	yes, no := true, false
	at := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	conditions := policy.RoleConditions{
		Logins:     []string{"{{internal.logins}}", "root"},
		NodeLabels: map[string]policy.Values{"env": {"dev", "test"}, "on": {"off"}, "year": {"2026"}},
		Rules:      []policy.APIRule{{Resources: []string{"*"}, Verbs: []string{"list", "read"}}},
	}
	user := &User{Header: NewHeader(KindUser, "alice@example.com"), Spec: UserSpec{
		Roles: []string{"access"}, Traits: map[string][]string{"logins": {"root"}},
		TrustedDeviceIDs: []string{"9cdfc0ad-64b7-4d9c-8e2f-0123456789ab"},
	}}
	user.Spec.CreatedBy.Time, user.Spec.CreatedBy.User.Name = at, "os:root"
	token := &Token{Header: NewHeader(KindToken, "a1"), Spec: TokenSpec{Roles: []string{"Node"}, Labels: map[string]string{"env": "dev"}}}
	token.Metadata.Expires = at
	node := &Node{Header: NewHeader(KindNode, "9cdfc0ad-64b7-4d9c-8e2f-0123456789ab"), Spec: NodeSpec{
		Hostname: "web-1", Addr: "192.0.2.1:3022", PublicAddrs: []string{"web.example.com:3022"}, Version: "1.0", LastHeartbeat: at,
		Enforcer: EnforcerSSHD, State: &NodeState{Sequence: 42, Confirmed: at, Reported: at},
	}}
	node.Metadata.Labels = map[string]string{"env": "dev", "empty": ""}
	role := &Role{Header: NewHeader(KindRole, "dev"), Spec: policy.RoleSpec{
		Options: policy.RoleOptions{
			DeviceTrustMode: policy.ModeRequiredForHumans, MaxSessionTTL: policy.Duration(30 * time.Hour),
			PortForwarding: &yes, ForwardAgent: &no, PermitX11Forwarding: &no, ClientIdleTimeout: policy.Duration(90 * time.Second),
			DisconnectExpiredCert: &yes, MaxSessions: 3, Lock: "best_effort", PinSourceIP: &yes,
			PermitOpen: []string{"DB:5432", "[::1]:*", "/run/dbs/*"}, PermitListen: []string{"none"}, Audit: "best_effort",
			DeviceEvidence: &policy.EvidenceDemand{Level: policy.EvidenceEventLog, TPMs: []policy.TPMDemand{
				{Manufacturer: "IFX", MinFirmware: "7.85"}, {Manufacturer: "STM"},
			}},
			RequireAttestedKey: &yes,
		},
		Allow: conditions, Deny: conditions,
	}}
	role.Metadata.Description, role.Metadata.Revision = "The <developers> & others:\n\tall of \"them\" ⟵\n\n", "17"
	return []Resource{user, role,
		&Preference{Header: NewHeader(KindPreference, PreferenceName), Spec: PreferenceSpec{Type: "local", SecondFactor: "off",
			Preference: policy.Preference{DeviceTrust: policy.DeviceTrust{
				Mode: policy.ModeOff, AutoEnroll: true,
				PCRPolicy: policy.PCRPolicyWarn, PCRs: []int64{0, 7},
			}, LockingMode: policy.LockingStrict, StalenessLimit: policy.Duration(5 * time.Minute)}}},
		&Lock{Header: NewHeader(KindLock, "l1"), Spec: LockSpec{
			Target:  policy.LockTarget{User: "alice", Role: "dev", Login: "root", Device: "d", Node: "n"},
			Message: "on leave: ask bob", Expires: at, CreatedAt: at, CreatedBy: "os:root",
		}},
		&Device{Header: NewHeader(KindDevice, "9cdfc0ad-64b7-4d9c-8e2f-0123456789ab"), Spec: DeviceSpec{
			OSType: "linux", AssetTag: "C00AA0AAAA0A", EnrollStatus: Enrolled, Owner: "alice@example.com",
			Owners: []string{"bob"}, Source: &DeviceSource{Name: "manual", Origin: "api"},
			Profile: &DeviceProfile{
				ExternalID: "17", UpdateTime: at, OSID: "debian", OSVersion: "12", OSBuild: "b", KernelVersion: "6.1", Hostname: "laptop",
				ModelIdentifier: "m", SerialNumber: "s", AssetTag: "a", JamfBinaryVersion: "11.1", OSUsernames: []string{"al", "off"},
			},
			Credential: &Credential{ID: "ab", PublicKeyDER: Bytes{0, 1, 255}, DeviceAttestationType: "tpm_ekcert", TPMSerial: "1", TPMEKKeyDigest: "cd", TPMAKPublic: Bytes("x")},
			Frozen:     &DeviceFreeze{Time: at, Reason: "the reset count of its TPM went back from 2 to 0"},
			Baseline: &DeviceBaseline{
				Time: at, PCRs: map[string]string{"0": "00", "10": "0e10"}, ResetCount: math.MaxUint32, RestartCount: 1,
				ClockMillis: math.MaxInt64, Firmware: "1.2.3.4",
			},
			Evidence: &DeviceEvidence{
				Time: at, Level: "quote", TPMManufacturer: "id:00001014", TPMFirmware: "7.85", ChangedPCRs: []int64{0, 4}, Reasons: []string{"event log: empty"},
			},
			CollectedData: []CollectedData{{
				CollectTime: at, RecordTime: at, OSType: "linux", AssetTag: "C00AA0AAAA0A", OSID: "debian", OSVersion: "12", OSBuild: "b",
				KernelVersion: "6.1", Hostname: "laptop", ModelIdentifier: "m", SerialNumber: "s", ReportedAssetTag: "r",
				SystemSerialNumber: "y", BaseBoardSerialNumber: "z", TPMManufacturer: "IFX", TPMFirmware: "1.2", OSUsername: "al",
				JamfBinaryVersion: "11.1", MacOSEnrollmentProfiles: "Enrolled via DEP: No; MDM enrollment: Yes",
			}},
			CreateTime: at, UpdateTime: at, LastSeenTime: at,
		}},
		token, node,
		&CertAuthority{Header: NewHeader(KindCertAuthority, "tls"), Spec: CertAuthoritySpec{
			Type: "tls", ClusterName: "example", PublicKeys: []string{"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}, CreateTime: at,
		}},
	}
}

// Scripts depend on these bytes.
func TestTheWrittenFormsStay(t *testing.T) {
	var inJSON strings.Builder
	for _, r := range everything() {
		doc, err := MarshalJSON(r)
		if err != nil {
			t.Fatal(err)
		}
		inJSON.Write(doc)
		inJSON.WriteByte('\n')
	}
	inYAML, err := MarshalYAML(everything()...)
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string]string{"testdata/everything.jsonl": inJSON.String(), "testdata/everything.yaml": string(inYAML)} {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", file, diff)
		}
	}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	want := everything()
	inYAML, err := MarshalYAML(want...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseYAML(inYAML)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("YAML: want (-), got (+):\n%s", diff)
	}
	for _, r := range want {
		doc, err := MarshalJSON(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("JSON: want (-), got (+):\n%s", diff)
		}
	}
}

func TestWhatNobodyCouldReadIsNotWritten(t *testing.T) {
	for name, r := range map[string]Resource{
		"nothing":         nil,
		"no kind":         &Role{},
		"another kind":    &Role{Header: NewHeader(KindUser, "x")},
		"no version":      &Role{Header: Header{Kind: KindRole}},
		"an older one":    &Role{Header: Header{Kind: KindRole, Version: "v3"}},
		"a negative time": &Role{Header: NewHeader(KindRole, "x"), Spec: policy.RoleSpec{Options: policy.RoleOptions{MaxSessionTTL: -1}}},
	} {
		if doc, err := MarshalJSON(r); err == nil {
			t.Errorf("%s: JSON: got %s", name, doc)
		}
		if doc, err := MarshalYAML(r); err == nil {
			t.Errorf("%s: YAML: got %s", name, doc)
		}
	}
}

// FuzzTexts: whatever text a field can hold is the same after YAML.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{"off", "~", " a ", "\n\n x\n", "\t", "- a: #b", "2026-01-01", "0x10", "1_000", "<<", "'\"", "\u00a0", "\u2028x", "? ", "...\n---\n", "a: |\n  b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := &Device{Header: NewHeader(KindDevice, ""), Spec: DeviceSpec{
			OSType: "linux", AssetTag: "x", Profile: &DeviceProfile{OSVersion: s, OSUsernames: []string{s, s + "a"}}, Source: &DeviceSource{Name: s, Origin: s + "\n"},
		}}
		d.Metadata.Description = s
		inJSON, err := MarshalJSON(d)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ParseJSON(inJSON)
		if err != nil {
			return // not a text for documents
		}
		inYAML, err := MarshalYAML(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseYAML(inYAML)
		if err != nil {
			t.Fatalf("%v in what was written:\n%s", err, inYAML)
		}
		if diff := cmp.Diff([]Resource{want}, got); diff != "" {
			t.Errorf("read (-), read again (+):\n%s\n%s", diff, inYAML)
		}
	})
}

// FuzzRoundTrip: what is read is written, and read again as the same, in both
// forms.
func FuzzRoundTrip(f *testing.F) {
	seed, err := MarshalYAML(everything()...)
	if err != nil {
		f.Fatal(err)
	}
	for _, doc := range strings.SplitAfter(string(seed), "---\n") {
		f.Add([]byte(doc))
	}
	f.Add([]byte(`{"kind":"user","metadata":{"name":"bob","labels":{" a":"\t- x\n","#":"? "}}}`))
	f.Add([]byte("kind: lock\nspec:\n  target: {user: ' '}\n  message: \"'\\\"\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := ParseYAML(data)
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("the error has more than one line: %q", err)
			}
			return
		}
		inYAML, err := MarshalYAML(all...)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseYAML(inYAML)
		if err != nil {
			t.Fatalf("%v in what was written:\n%s", err, inYAML)
		}
		if diff := cmp.Diff(all, again); diff != "" {
			t.Fatalf("YAML: read (-), read again (+):\n%s\n%s", diff, inYAML)
		}
		for _, r := range all {
			inJSON, err := MarshalJSON(r)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseJSON(inJSON)
			if err != nil {
				t.Fatalf("%v in what was written: %s", err, inJSON)
			}
			if diff := cmp.Diff(r, again); diff != "" {
				t.Fatalf("JSON: read (-), read again (+):\n%s\n%s", diff, inJSON)
			}
		}
	})
}

func TestPCRsAreWrittenByNumber(t *testing.T) {
	d := &Device{Header: NewHeader(KindDevice, "9cdfc0ad-64b7-4d9c-8a9c-000000000001"), Spec: DeviceSpec{
		OSType: "linux", AssetTag: "PF1", EnrollStatus: NotEnrolled,
		Baseline: &DeviceBaseline{PCRs: map[string]string{"0": "a", "10": "d", "2": "c", "1": "b", "23": "e"}},
	}}
	text, err := MarshalYAML(d)
	if err != nil {
		t.Fatal(err)
	}
	const want = "    pcrs:\n      \"0\": a\n      \"1\": b\n      \"2\": c\n      \"10\": d\n      \"23\": e\n"
	if !strings.Contains(string(text), want) {
		t.Errorf("got %s", text)
	}
}
