package resource

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/policy"
)

// parseOne reads the one resource in text.
func parseOne(t *testing.T, text string) Resource {
	t.Helper()
	all, err := ParseYAML([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("got %d resources", len(all))
	}
	return all[0]
}

func TestDocumentsOfEveryKindAreRead(t *testing.T) {
	yes, no := true, false
	for text, want := range map[string]Resource{
		`
kind: role
version: v5
metadata:
  name: dev
  description: The developers
spec:
  options:
    device_trust_mode: off
    max_session_ttl: 1h30m
    port_forwarding: true
    forward_agent: false
    lock: strict
    device_evidence: {level: quote, tpms: [{manufacturer: 'IFX', min_firmware: 7.80}]}
    require_attested_key: no
  allow:
    logins: ['{{internal.logins}}', ubuntu]
    node_labels:
      env: [dev, test]
      year: 2026
      "on": off
    rules:
    - resources: [device]
      verbs: [list, read]
  deny:
    node_labels: {'*': '*'}
`: &Role{
			Header: Header{Kind: "role", Version: "v7", Metadata: Metadata{Name: "dev", Description: "The developers"}},
			Spec: policy.RoleSpec{
				Options: policy.RoleOptions{
					DeviceTrustMode: policy.ModeOff, MaxSessionTTL: policy.Duration(90 * time.Minute),
					PortForwarding: &yes, ForwardAgent: &no, Lock: "strict",
					// The firmware as it is written, and not a number without its 0.
					DeviceEvidence: &policy.EvidenceDemand{Level: policy.EvidenceQuote, TPMs: []policy.TPMDemand{{Manufacturer: "IFX", MinFirmware: "7.80"}}},
					// False as it is written, and not left out.
					RequireAttestedKey: &no,
				},
				Allow: policy.RoleConditions{
					Logins:     []string{"{{internal.logins}}", "ubuntu"},
					NodeLabels: map[string]policy.Values{"env": {"dev", "test"}, "year": {"2026"}, "on": {"off"}},
					Rules:      []policy.APIRule{{Resources: []string{"device"}, Verbs: []string{"list", "read"}}},
				},
				Deny: policy.RoleConditions{NodeLabels: map[string]policy.Values{"*": {"*"}}},
			},
		},
		"kind: cluster_auth_preference\nspec: {second_factor: off, device_trust: {mode: off}}": &Preference{
			Header: Header{Kind: "cluster_auth_preference", Version: "v2", Metadata: Metadata{Name: "cluster-auth-preference"}},
			Spec: PreferenceSpec{Type: "local", SecondFactor: "off",
				Preference: policy.Preference{DeviceTrust: policy.DeviceTrust{Mode: "off"}}},
		},
		"kind: lock\nmetadata: {name: l1}\nspec:\n  target: {user: alice}\n  message: on leave\n  expires: 2026-02-03T04:05:06+02:00": &Lock{
			Header: Header{Kind: "lock", Version: "v2", Metadata: Metadata{Name: "l1"}},
			Spec: LockSpec{Target: policy.LockTarget{User: "alice"}, Message: "on leave",
				Expires: time.Date(2026, 2, 3, 2, 5, 6, 0, time.UTC)},
		},
		"{kind: device, spec: {os_type: linux, asset_tag: '0042', profile: {os_version: 12}, credential: {id: x, public_key_der: AQID, device_attestation_type: tpm_ekpub}}}": &Device{
			Header: Header{Kind: "device", Version: "v1"},
			Spec: DeviceSpec{OSType: "linux", AssetTag: "0042", Profile: &DeviceProfile{OSVersion: "12"},
				Credential: &Credential{ID: "x", PublicKeyDER: Bytes{1, 2, 3}, DeviceAttestationType: "tpm_ekpub"}},
		},
		`[{"kind":"user","version":"v2","metadata":{"name":"bob"},"spec":{"traits":{"logins":["root"],"kubernetes_groups":null}}}]`: &User{
			Header: Header{Kind: "user", Version: "v2", Metadata: Metadata{Name: "bob"}},
			Spec:   UserSpec{Traits: map[string][]string{"logins": {"root"}}},
		},
		"kind: token\nmetadata: {name: a1, expires: 2026-02-03T04:05:06Z}\nspec: {roles: [Node]}": &Token{
			Header: Header{Kind: "token", Version: "v2", Metadata: Metadata{Name: "a1", Expires: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}},
			Spec:   TokenSpec{Roles: []string{"Node"}},
		},
		"kind: node\nmetadata: {name: n1, labels: {env: dev}}\nspec: {hostname: web, addr: 'web:3022'}": &Node{
			Header: Header{Kind: "node", Version: "v2", Metadata: Metadata{Name: "n1", Labels: map[string]string{"env": "dev"}}},
			Spec:   NodeSpec{Hostname: "web", Addr: "web:3022"},
		},
		"kind: cert_authority\nmetadata: {name: user}\nspec: {type: user, cluster_name: c, public_keys: [ssh-ed25519 AAAA]}": &CertAuthority{
			Header: Header{Kind: "cert_authority", Version: "v2", Metadata: Metadata{Name: "user"}},
			Spec:   CertAuthoritySpec{Type: "user", ClusterName: "c", PublicKeys: []string{"ssh-ed25519 AAAA"}},
		},
	} {
		t.Run(want.Head().Kind, func(t *testing.T) {
			if diff := cmp.Diff(want, parseOne(t, text)); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestSeveralDocumentsAreReadInTheirOrder(t *testing.T) {
	all, err := ParseYAML([]byte("# a comment\n---\nkind: user\nmetadata: {name: b}\n---\n# nothing\n---\nkind: user\nmetadata: {name: a}\n...\n"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Head().Metadata.Name)
	}
	if diff := cmp.Diff([]string{"b", "a"}, names); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

// Each mistake is told in one line, with the line that it is on.
func TestMistakesAreToldWithTheirLine(t *testing.T) {
	role := func(spec string) string { return "kind: role\nmetadata:\n  name: r\nspec:\n" + spec }
	user := func(spec string) string { return "kind: user\nmetadata:\n  name: u\nspec:\n" + spec }
	for name, row := range map[string]struct{ text, want string }{
		"nothing":                   {"", "there is no resource in it"},
		"a comment":                 {"# nothing\n", "there is no resource in it"},
		"a text":                    {"hello", "line 1: a resource is wanted: kind, version, metadata, spec"},
		"no kind":                   {"\nversion: v2", `line 2: "kind" is missing; there are cert_authority, cluster_auth_preference, device, lock, node, role, token, user`},
		"an unknown kind":           {"kind: users", `line 1: unknown kind "users"; there are cert_authority, cluster_auth_preference, device, lock, node, role, token, user`},
		"rules' kind":               {"kind: event", `line 1: unknown kind "event"; there are cert_authority, cluster_auth_preference, device, lock, node, role, token, user`},
		"an unknown version":        {"kind: role\nversion: v9\nwhat: x", `line 2: version "v9" of a role is not supported; v3, v4, v5, v6, v7, v8 is`},
		"broken YAML":               {"kind: role\n  x: [", "line 2: mapping values are not allowed in this context"},
		"broken JSON":               {"{\n\"kind\": \"role\",\n\"x\" 1}", "line 3: invalid character '1' after object key"},
		"an unknown field":          {role("  allow:\n    logins: [root]\n    wehre: x\n"), `line 7: field "wehre" is not supported in a role (spec.allow)`},
		"an unknown field above":    {"kind: lock\nspce: {}", `line 2: field "spce" is not supported in a lock`},
		"session MFA":               {role("  options:\n    require_session_mfa: true\n"), `line 6: field "require_session_mfa" is not supported in a role (spec.options)`},
		"recording":                 {role("  options:\n    record_session: {default: strict}\n"), `line 6: field "record_session" is not supported in a role (spec.options)`},
		"Kubernetes":                {role("  allow:\n    kubernetes_groups: [dev]\n"), `line 6: field "kubernetes_groups" is not supported in a role (spec.allow)`},
		"where":                     {role("  allow:\n    rules:\n    - resources: [user]\n      verbs: [list]\n      where: x\n"), `line 9: field "where" is not supported in a role (spec.allow.rules[0])`},
		"a field in another case":   {"kind: role\nMetadata: {}", `line 2: field "Metadata" is not supported in a role`},
		"a field twice":             {role("  options:\n    lock: strict\n    lock: best_effort\n"), `line 7: field "lock" is there twice (spec.options)`},
		"a label twice":             {role("  deny:\n    node_labels:\n      env: prod\n      env: dev\n"), `line 8: "env" is there twice (spec.deny.node_labels)`},
		"an anchor":                 {"kind: role\nmetadata: &m\n  name: x", "line 2: the anchor &m is not supported"},
		"an alias":                  {"kind: &k role\nmetadata:\n  name: *k", "line 1: the anchor &k is not supported"},
		"a merge key":               {"kind: role\nmetadata:\n  <<: {name: x}", "line 3: the merge key << is not supported"},
		"a tag":                     {"kind: role\nmetadata:\n  name: !!binary YQ==", "line 3: the tag !!binary is not supported"},
		"a text for fields":         {"kind: role\nmetadata: x", "line 2: metadata holds fields, and not a text or a list"},
		"fields for a text":         {"kind: role\nmetadata:\n  name: {a: b}", "line 3: metadata.name is one value, and not a list or fields"},
		"a text for a list":         {role("  allow:\n    logins: root\n"), "line 6: spec.allow.logins is a list: write [a, b], or each on its own line after a dash"},
		"an empty item":             {role("  allow:\n    logins: [root, ]\n    rules: [~]"), "line 7: spec.allow.rules[0] is empty"},
		"maybe":                     {role("  options:\n    port_forwarding: maybe\n"), `line 6: spec.options.port_forwarding is true or false, and not "maybe"`},
		"a text that says yes":      {role("  options:\n    port_forwarding: \"yes\"\n"), `line 6: spec.options.port_forwarding is true or false, and not "yes"`},
		"a fraction":                {role("  options:\n    max_sessions: 1.5\n"), `line 6: spec.options.max_sessions is a whole number, and not "1.5"`},
		"a huge number":             {role("  options:\n    max_sessions: 99999999999999999999\n"), `line 6: spec.options.max_sessions is a whole number, and not "99999999999999999999"`},
		"nothing is permitted":      {role("  options:\n    port_forwarding: true\n    permit_open: []\n"), `line 7: spec.options.permit_open: it is empty; to permit nothing, list none`},
		"all is commented out":      {role("  options:\n    port_forwarding: true\n    permit_listen:\n    # - localhost:8080\n"), `line 7: spec.options.permit_listen: it is empty; to permit nothing, list none`},
		"no length of time":         {role("  options:\n    max_session_ttl: 30\n"), `line 6: spec.options.max_session_ttl: "30" is not a length of time such as 30m or 12h`},
		"a negative length":         {role("  options:\n    max_session_ttl: -1h\n"), `line 6: spec.options.max_session_ttl: "-1h" is not longer than nothing`},
		"an unknown mode":           {role("  options:\n    device_trust_mode: strict\n"), `line 6: spec.options.device_trust_mode: "strict" is not one of off, optional, required, required-for-humans`},
		"no evidence":               {role("  options:\n    device_evidence: {}\n"), `line 6: spec.options.device_evidence: it asks for nothing; set level, tpms or both`},
		"a level in a text":         {role("  options:\n    device_evidence: event_log\n"), `line 6: spec.options.device_evidence holds fields, and not a text or a list`},
		"an unknown level":          {role("  options:\n    device_evidence:\n      level: measured\n"), `line 7: spec.options.device_evidence.level: "measured" is not one of key, quote, event_log, secure_boot`},
		"evidence of another kind":  {role("  options:\n    device_evidence:\n      min_level: key\n"), `line 7: field "min_level" is not supported in a role (spec.options.device_evidence)`},
		"a TPM of another kind":     {role("  options:\n    device_evidence:\n      tpms:\n      - model: SLB9670\n"), `line 8: field "model" is not supported in a role (spec.options.device_evidence.tpms[0])`},
		"a vendor's full name":      {role("  options:\n    device_evidence:\n      tpms:\n      - manufacturer: STM\n      - manufacturer: Infineon\n"), `line 9: spec.options.device_evidence.tpms[1].manufacturer: "Infineon" is not a vendor ID: 1 to 4 characters such as IFX, or eight digits such as id:00001014`},
		"firmware in words":         {role("  options:\n    device_evidence:\n      tpms:\n      - manufacturer: IFX\n        min_firmware: latest\n"), `line 9: spec.options.device_evidence.tpms[0].min_firmware: "latest" is not a version such as 7.85: up to 4 numbers with dots`},
		"a key that may be":         {role("  options:\n    require_attested_key: maybe\n"), `line 6: spec.options.require_attested_key is true or false, and not "maybe"`},
		"a key in a text":           {role("  options:\n    require_attested_key: \"true\"\n"), `line 6: spec.options.require_attested_key is true or false, and not "true"`},
		"a key in a number":         {role("  options:\n    require_attested_key: 1\n"), `line 6: spec.options.require_attested_key is true or false, and not "1"`},
		"a key in a list":           {role("  options:\n    require_attested_key: [true]\n"), `line 6: spec.options.require_attested_key is one value, and not a list or fields`},
		"a key twice":               {role("  options:\n    require_attested_key: true\n    require_attested_key: false\n"), `line 7: field "require_attested_key" is there twice (spec.options)`},
		"a key in the wrong place":  {role("  require_attested_key: true\n"), `line 5: field "require_attested_key" is not supported in a role (spec)`},
		"a key of another name":     {role("  options:\n    require_attested_keys: true\n"), `line 6: field "require_attested_keys" is not supported in a role (spec.options)`},
		"a label with fields":       {role("  allow:\n    node_labels:\n      env: {a: b}\n"), "line 7: spec.allow.node_labels.env: a label's values are one text or a list of texts"},
		"a label without a value":   {role("  allow:\n    node_labels:\n      env:\n"), "line 7: spec.allow.node_labels.env: a label's values are one text or a list of texts"},
		"a pattern":                 {role("  allow:\n    node_labels:\n      env: [dev, 'prod-*']\n"), `line 7: spec.allow.node_labels.env: "prod-*" is a pattern or a variable, which are not supported here`},
		"every login":               {role("  allow:\n    logins: ['*']\n"), `line 6: spec.allow.logins[0]: "*" is not a login; name each one`},
		"no login":                  {role("  deny:\n    logins: [Root]\n"), `line 6: spec.deny.logins[0]: login "Root" is not of the form [a-z_][a-z0-9._-]{0,31}`},
		"an unknown verb":           {role("  allow:\n    rules:\n    - resources: [user]\n      verbs: [rotate]\n"), `line 8: spec.allow.rules[0].verbs: "rotate" is not a verb; there are list, read, create, update, delete, enroll and *`},
		"a role without a name":     {"kind: role\nspec: {}", `line 1: metadata.name: name "" must be 1 to 64 of a-z A-Z 0-9 . _ -`},
		"a name with a slash":       {"kind: role\nmetadata:\n  name: a/b", `line 3: metadata.name: name "a/b" must be 1 to 64 of a-z A-Z 0-9 . _ -`},
		"a role that expires":       {"kind: role\nmetadata:\n  name: r\n  expires: 2026-01-01T00:00:00Z", "line 4: metadata.expires: a role does not expire by it"},
		"no time":                   {"kind: lock\nspec:\n  target: {user: a}\n  expires: tomorrow", `line 4: spec.expires: "tomorrow" is not a time such as 2006-01-02T15:04:05Z`},
		"a day":                     {"kind: lock\nspec:\n  target: {user: a}\n  expires: 2026-01-01", `line 4: spec.expires: "2026-01-01" is not a time such as 2006-01-02T15:04:05Z`},
		"a time after time":         {"kind: lock\nspec:\n  target: {user: a}\n  expires: 9999-12-31T23:00:00-02:00", `line 4: spec.expires: "9999-12-31T23:00:00-02:00" is not a time such as 2006-01-02T15:04:05Z`},
		"a lock of nobody":          {"kind: lock\nspec:\n  target: {}", "line 3: spec.target: it names nobody; set user, role, login, device or node"},
		"a lock without a target":   {"kind: lock\nspec:\n  message: x", "line 2: spec.target: it names nobody; set user, role, login, device or node"},
		"a lock of an unknown kind": {"kind: lock\nspec:\n  target:\n    mfa_device: x", `line 4: field "mfa_device" is not supported in a lock (spec.target)`},
		"a message of two lines":    {"kind: lock\nspec:\n  target: {user: a}\n  message: \"a\\nb\"", `line 4: spec.message: "a\nb" is not one line of at most 512 bytes`},
		"an escape sequence":        {"kind: lock\nspec:\n  target: {user: a}\n  message: \"\\e[2J\"", "line 4: spec.message holds what cannot be printed"},
		"a user's name":             {"kind: user\nmetadata:\n  name: a b", `line 3: metadata.name: user name "a b" must be 1 to 128 of a-z A-Z 0-9 . _ @ + - and start with a letter, a digit or _`},
		"a user that expires":       {user("  expires: 2030-01-01T00:00:00Z"), "line 5: spec.expires: users do not expire; lock or remove them"},
		"a locked user":             {user("  status: {is_locked: true}"), "line 5: spec.status.is_locked: locks make this true; create a lock that targets the user"},
		"status in two places":      {user("  status: {is_locked: false}\nstatus: {is_locked: true}"), `line 6: field "status" is not supported in a user`},
		"a role twice":              {user("  roles: [a, b, a]"), `line 5: spec.roles[2]: "a" is there twice`},
		"a trait that is no login":  {user("  traits:\n    logins: [root, -dt-nologin-]"), `line 6: spec.traits.logins[1]: login "-dt-nologin-" is not of the form [a-z_][a-z0-9._-]{0,31}`},
		"github identities":         {user("  github_identities: []"), `line 5: field "github_identities" is not supported in a user (spec)`},
		"another preference":        {"kind: cluster_auth_preference\nmetadata:\n  name: other", `line 3: metadata.name: "other": the only cluster_auth_preference is "cluster-auth-preference"`},
		"another type":              {"kind: cluster_auth_preference\nspec:\n  type: oidc", `line 3: spec.type: "oidc" is not supported; it can only be local`},
		"a second factor":           {"kind: cluster_auth_preference\nspec:\n  second_factor: otp", `line 3: spec.second_factor: "otp" is not supported; it can only be off`},
		"unknown PCR policy":        {"kind: cluster_auth_preference\nspec:\n  device_trust:\n    pcr_policy: strict", "line 4: spec.device_trust.pcr_policy: \"strict\" is not one of off, warn, enforce"},
		"a mode of locking":         {"kind: cluster_auth_preference\nspec:\n  locking_mode: loose", `line 3: spec.locking_mode: "loose" is neither strict nor best_effort`},
		"soon stale":                {"kind: cluster_auth_preference\nspec:\n  staleness_limit: 30s", "line 3: spec.staleness_limit: 30s is not between 1m0s and 744h0m0s"},
		"never stale":               {"kind: cluster_auth_preference\nspec:\n  staleness_limit: 1000h", "line 3: spec.staleness_limit: 1000h0m0s is not between 1m0s and 744h0m0s"},
		"stale at once":             {"kind: cluster_auth_preference\nspec:\n  staleness_limit: 0s", `line 3: spec.staleness_limit: "0s" is not longer than nothing`},
		"no such PCR":               {"kind: cluster_auth_preference\nspec:\n  device_trust:\n    pcrs: [0, 24]", "line 4: spec.device_trust.pcrs[1]: 24 is not a PCR: want 0 to 23"},
		"negative PCR":              {"kind: cluster_auth_preference\nspec:\n  device_trust:\n    pcrs: [-1]", "line 4: spec.device_trust.pcrs[0]: -1 is not a PCR: want 0 to 23"},
		"PCR twice":                 {"kind: cluster_auth_preference\nspec:\n  device_trust:\n    pcrs: [7, 4, 7]", "line 4: spec.device_trust.pcrs[2]: PCR 7 is there twice"},
		"no certificate":            {"kind: cluster_auth_preference\nspec:\n  device_trust:\n    ekcert_allowed_cas:\n    - hello", "line 5: spec.device_trust.ekcert_allowed_cas[0]: entry 1: it is not a certificate in PEM (-----BEGIN CERTIFICATE-----)"},
		"another system":            {"kind: device\nspec: {os_type: Linux, asset_tag: x}", `line 2: spec.os_type: "Linux" is not one of linux, macos, windows`},
		"a device without a tag":    {"kind: device\nspec: {os_type: linux}", `line 2: spec.asset_tag: "" is not an asset tag: want one word, as dtsh device asset-tag prints it on the machine`},
		"an unknown status":         {"kind: device\nspec: {os_type: linux, asset_tag: x, enroll_status: maybe}", `line 2: spec.enroll_status: "maybe" is neither enrolled nor not_enrolled`},
		"no ID":                     {"kind: device\nmetadata: {name: x}\nspec: {os_type: linux, asset_tag: x}", `line 2: metadata.name: "x" is not a device's ID; leave it out to have one made`},
		"a key in another alphabet": {"kind: device\nspec: {os_type: linux, asset_tag: x, credential: {public_key_der: 'a-b_'}}", "line 2: spec.credential.public_key_der: not base64 text"},
		"a number for a JSON text":  {`{"kind":"user","metadata":{"name":7}}`, "line 1: metadata.name is a text, and not 7"},
		"a JSON field twice":        {"{\"kind\":\"user\",\n\"metadata\":{\"name\":\"a\",\n\"name\":\"b\"}}", `line 3: field "name" is there twice (metadata)`},
		"no UTF-8":                  {"kind: \xff", "it is not text in UTF-8"},
		"too much":                  {strings.Repeat("#", MaxText+1), "16777217 bytes are more than 16777216"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := ParseYAML([]byte(row.text))
			if err == nil {
				t.Fatalf("got %v, want an error", all)
			}
			if err.Error() != row.want {
				t.Errorf("got  %s\nwant %s", err, row.want)
			}
		})
	}
}

// A page of aliases must not grow: it is refused before it is followed.
func TestABombIsRefusedAtItsFirstAnchor(t *testing.T) {
	text := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'k'; c++ {
		p := string(c - 1)
		text += string(c) + ": &" + string(c) + " [*" + strings.Repeat(p+",*", 8) + p + "]\n"
	}
	if _, err := ParseYAML([]byte(text)); err == nil || !strings.Contains(err.Error(), "anchor") {
		t.Errorf("got %v", err)
	}
}

func TestDeepDocumentsAreRefused(t *testing.T) {
	for _, open := range []string{"[", "{a: ", "- ", `{"a":`} {
		if _, err := ParseYAML([]byte(strings.Repeat(open, 20_000))); err == nil {
			t.Errorf("%q was taken", open)
		}
	}
}

// What only the server can make true may come from the server.
func TestTheServerMaySayThatAUserIsLocked(t *testing.T) {
	r, err := ParseJSON([]byte(`{"kind":"user","version":"v2","metadata":{"name":"u"},"spec":{"status":{"is_locked":true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !r.(*User).Spec.Status.IsLocked {
		t.Error("the status was lost")
	}
}

func TestKindsHaveTheirWords(t *testing.T) {
	for word, want := range map[string]string{
		"user": "user", "users": "user", "Roles": "role", "devices": "device", "cap": "cluster_auth_preference",
		"cluster-auth-preference": "cluster_auth_preference", "cert_authorities": "cert_authority",
		"locks": "lock", "tokens": "token", "nodes": "node",
		"": "", "event": "", "user/alice": "", "usersx": "",
	} {
		got, ok := NormalizeKind(word)
		if got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v", word, got, ok)
		}
	}
	for _, k := range Kinds() {
		if got, ok := NormalizeKind(k); !ok || got != k {
			t.Errorf("%q: got %q, %v", k, got, ok)
		}
	}
}
