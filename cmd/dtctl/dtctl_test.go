package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/cmd/internal/cli"
)

func TestHelpIsComplete(t *testing.T) {
	for _, complaint := range cli.Complaints(newRoot(&cli.Env{})) {
		t.Error(complaint)
	}
}

func TestAWrongCommandLineIsRefusedBeforeAnythingIsSent(t *testing.T) {
	c := startCluster(t)
	for _, line := range []string{
		"users add", "users add bob", "users add bob --roles=x --password-stdin --ttl=1h", "users add bob --roles=x --ttl=0s",
		"users add bob --roles=x --ttl=soon", "users rm", "users reset", "users ls extra",
		"devices add", "devices add --os=linux", "devices add --asset-tag=x", "devices add --os=beos --asset-tag=x",
		"devices add --current-device --os=linux",
		"devices add --os=linux --asset-tag=x --enroll-ttl=1h",
		"devices enroll", "devices enroll --asset-tag=x --device-id=y", "devices rm", "devices rm x", "devices lock",
		"lock", "lock --user=x --ttl=1h --expires=2027-01-01T00:00:00Z", "lock --user=x --expires=tomorrow",
		"lock --user=x --expires=2026-02-28T00:00:00Z",
		"get", "get unicorn", "get role/", "create", "edit", "edit role", "rm role", "rm roles/", "rm unicorn/x",
		"tokens rm", "tokens add --labels=x", "tokens add --type=spaceship", "auth export", "auth export --type=jwt",
		"audit ls --since=yesterday", "audit ls --limit=-1", "audit ls --format=xml",
		"explain --user=a --login=b", "explain --login=b --node=c", "explain --user=a --login=b --node=c --device=d --certificate=e",
		"auth rotate", "auth krl extra",
	} {
		r := c.run(t, strings.Fields(line)...)
		if r.status != 2 || r.out != "" || !strings.HasPrefix(r.errors, "ERROR: ") || !strings.Contains(r.errors, "--help'.\n") {
			t.Errorf("dtctl %s: %+v", line, r)
		}
	}
	if len(c.requests) != 0 {
		t.Errorf("sent: %v", c.requests)
	}
}

func TestARefusalOfTheServerIsShownWithItsRemedy(t *testing.T) {
	c := startCluster(t)
	c.fault = api.Refuse(connect.CodePermissionDenied, "access denied: you may not list devices").WithHint("Ask for the role device-admin.")
	r := c.run(t, "devices", "ls")
	if want := "ERROR: access denied: you may not list devices\nAsk for the role device-admin.\n"; r.status != 1 || r.errors != want || r.out != "" {
		t.Errorf("%+v", r)
	}
}

func TestASocketThatCannotBeUsedIsExplained(t *testing.T) {
	dir, err := os.MkdirTemp("", "dtctl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := &cluster{dataDir: dir}
	socket := filepath.Join(dir, socketName)
	check := func(want string) {
		t.Helper()
		if r := c.run(t, "status"); r.status != 1 || !strings.HasPrefix(r.errors, want) || strings.Count(r.errors, "\n") != 2 {
			t.Errorf("%+v\nwant %s", r, want)
		}
	}
	check("ERROR: cannot reach dtauthd at " + socket + ": there is no such socket\nStart dtauthd")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	check("ERROR: cannot reach dtauthd at " + socket + ": nobody listens\nStart dtauthd.\n")
	if got, hint := cli.Explain(socketError("/s", os.ErrPermission)); !strings.HasSuffix(got, "permission denied") || !strings.Contains(hint, "sudo") {
		t.Errorf("%s / %s", got, hint)
	}
}

func TestWithoutASocketAndWithoutALoginThereIsNothingToAdminister(t *testing.T) {
	if _, err := os.Stat(filepath.Join(defaultDataDir, socketName)); err == nil {
		t.Skip("a dtauthd runs on this machine with the default data directory")
	}
	var errs strings.Builder
	status := cli.Run(t.Context(), &cli.Env{
		Args: []string{"status"}, Stderr: &errs, Now: time.Now,
		Getenv: func(n string) string { return map[string]string{"DTSH_HOME": t.TempDir()}[n] },
	}, newRoot)
	if status != 1 || !strings.HasPrefix(errs.String(), "ERROR: no cluster to administer: ") || !strings.Contains(errs.String(), "dtsh login") {
		t.Errorf("status %d, %s", status, errs.String())
	}
}

func TestATokenComesWithTheCommandThatUsesIt(t *testing.T) {
	c := startCluster(t)
	c.answers["AddToken"] = &dtv1.JoinToken{
		Token: "j0in", Type: "node", Expires: timestamppb.New(now.Add(30 * time.Minute)),
		CaPins: []string{"sha256:aa"}, AuthServer: "dt.example:3080", Name: "t1",
	}
	c.prints(t, `Run the command below on the server that is to join, until 2026-03-01 13:30:00:
dtnoded start --auth-server=dt.example:3080 --token=j0in --ca-pin=sha256:aa
`, "tokens", "add", "--type=node", "--ttl=30m", "--labels=env=prod,team=web")
	c.asked(t, &dtv1.AddTokenRequest{Type: "node", Ttl: durationpb.New(30 * time.Minute), Labels: map[string]string{"env": "prod", "team": "web"}})
	c.prints(t, `{
  "token": "j0in",
  "type": "node",
  "expires": "2026-03-01T12:30:00Z",
  "ca_pins": [
    "sha256:aa"
  ],
  "auth_server": "dt.example:3080",
  "name": "t1"
}
`, "tokens", "add", "--format=json")
	c.prints(t, "No tokens found\n", "tokens", "ls")
	c.put(t, `{kind: token, version: v2, metadata: {name: t1, expires: "2026-03-01T12:30:00Z"}, spec: {roles: [Node], labels: {b: "2", a: "1"}}}`)
	c.prints(t, `Token Type Labels  Expires
----- ---- ------- -------------------
t1    Node a=1,b=2 2026-03-01 13:30:00
`, "tokens", "ls")
	c.prints(t, "token \"t1\" has been deleted\n", "tokens", "rm", "t1")
}

func TestNodesAreListed(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "No nodes found\n", "nodes", "ls")
	c.answers["ListNodes"] = &dtv1.ListNodesResponse{Nodes: [][]byte{[]byte(
		`{"kind":"node","version":"v2","metadata":{"name":"id1","labels":{"env":"prod"}},"spec":{"hostname":"web-1","addr":"10.0.0.1:3022","version":"0.1.0"}}`)}}
	c.prints(t, `Node Name Address       Labels   Version Last Seen Node ID
--------- ------------- -------- ------- --------- -------
web-1     10.0.0.1:3022 env=prod 0.1.0             id1
`, "nodes", "ls")
	c.answers["ListNodes"] = &dtv1.ListNodesResponse{Nodes: [][]byte{[]byte(
		`{"kind":"node","version":"v2","metadata":{"name":"id1"},"spec":{"hostname":"web-1","addr":"10.0.0.1:3022","last_heartbeat":"2026-03-01T12:00:00Z",` +
			`"enforcer":"sshd","state":{"sequence":42,"confirmed":"2026-03-01T11:50:00Z","reported":"2026-03-01T12:00:00Z","behind":true}}}`)}}
	c.prints(t, `Node Name Address       Labels Version Last Seen                   Node ID
--------- ------------- ------ ------- --------------------------- -------
web-1     10.0.0.1:3022                2026-03-01 13:00:00, behind id1
`, "nodes", "ls")
	c.prints(t, `Node Name Address       Labels Version Last Seen                   Node ID Enforcer Change Confirmed
--------- ------------- ------ ------- --------------------------- ------- -------- ------ -------------------
web-1     10.0.0.1:3022                2026-03-01 13:00:00, behind id1     sshd     42     2026-03-01 12:50:00
`, "nodes", "ls", "-v")
	var all []struct{ Spec struct{ Hostname string } }
	if err := json.Unmarshal([]byte(c.good(t, "nodes", "ls", "--format=json")), &all); err != nil || len(all) != 1 || all[0].Spec.Hostname != "web-1" {
		t.Errorf("%v, %+v", err, all)
	}
}

func TestAnAuthorityIsExportedAsItIs(t *testing.T) {
	c := startCluster(t)
	c.answers["ExportAuthority"] = &dtv1.ExportAuthorityResponse{Text: "@cert-authority * ssh-ed25519 AAAA\n"}
	c.prints(t, "@cert-authority * ssh-ed25519 AAAA\n", "auth", "export", "--type=host")
	c.asked(t, &dtv1.ExportAuthorityRequest{Type: "host"})
}

func TestARevocationListIsWrittenAsItIs(t *testing.T) {
	c := startCluster(t)
	c.answers["ExportKRL"] = &dtv1.ExportKRLResponse{Krl: []byte("SSHKRL\n\x00\x1b"), Signature: "-----BEGIN\n"}
	c.prints(t, "SSHKRL\n\x00\x1b", "auth", "krl")
	file := filepath.Join(t.TempDir(), "krl.sig")
	c.prints(t, "SSHKRL\n\x00\x1b", "auth", "krl", "--signature="+file)
	if text, err := os.ReadFile(file); err != nil || string(text) != "-----BEGIN\n" {
		t.Errorf("the signature: %q, %v", text, err)
	}
	if r := c.run(t, "auth", "krl", "--signature="+filepath.Join(file, "x")); r.status != 1 || r.out != "" {
		t.Errorf("without a place for the signature: %+v", r)
	}
}

// An empty file would let everybody in.
func TestARevocationListOfNothingIsNotPrinted(t *testing.T) {
	c := startCluster(t)
	for name, answer := range map[string]*dtv1.ExportKRLResponse{
		"no list": {Signature: "x"}, "no signature": {Krl: []byte("x")},
	} {
		c.answers["ExportKRL"] = answer
		if r := c.run(t, "auth", "krl"); r.status != 1 || r.out != "" || !strings.HasPrefix(r.errors, "ERROR: the server gave no revocation list") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestAuditRecordsAreShownOldestFirst(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "No events found\n", "audit", "ls")
	seven, in, out := 7, int64(5), int64(8)
	list := &dtv1.ListAuditResponse{}
	for _, e := range []event.Event{
		{Type: event.DeviceEnroll, Code: "TV005I", Time: now, User: "alice", Success: true, Device: &event.Device{DeviceID: macID, AssetTag: "C00"}},
		{Type: event.UserLogin, Code: "T1000W", Time: now, User: "mal\x1b[1mory", Message: "wrong password", RemoteAddr: "10.0.0.9:1"},
		{Type: event.Exec, Time: now, User: "alice", Success: true, Login: "root", NodeName: "web-1", Command: "ls", ExitStatus: &seven},
		{Type: event.RoleCreate, Time: now, User: "os:root", Success: true, Kind: "role", Name: "x", Reasons: []string{"new"}},
		{Type: event.SFTP, Time: now, User: "alice", Success: true, Action: "rename", Path: "/a", TargetPath: "/b", Reasons: []string{"2 are missing"}},
		{Type: event.Port, Time: now, User: "alice", Action: "connect", Addr: "db:5432", Message: "no", Reasons: []string{"skip: x", "skip: y"}},
		{Type: event.SessionEnd, Time: now, User: "alice", Success: true, Command: "ls", ExitStatus: &seven, BytesIn: &in, Bytes: &out},
	} {
		doc, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		list.Events = append(list.Events, doc)
	}
	c.answers["ListAudit"] = list
	c.prints(t, `Time                Event         User            Result  Details
------------------- ------------- --------------- ------- -----------------------------------------------
2026-03-01 13:00:00 device.enroll alice           success device=C00
2026-03-01 13:00:00 user.login    mal\u001b[1mory failure from=10.0.0.9:1 wrong password
2026-03-01 13:00:00 exec          alice           success login=root node=web-1 command=ls exit=7
2026-03-01 13:00:00 role.created  os:root         success role=x
2026-03-01 13:00:00 sftp          alice           success action=rename path=/a to=/b (2 are missing)
2026-03-01 13:00:00 port          alice           failure action=connect to=db:5432 no (skip: x; skip: y)
2026-03-01 13:00:00 session.end   alice           success command=ls exit=7 in=5 out=8
`, "audit", "ls", "--type=device.enroll", "--user=alice", "--failed", "--limit=20", "--since=1d")
	c.asked(t, &dtv1.ListAuditRequest{Type: "device.enroll", User: "alice", Failed: true, Limit: 20, Since: timestamppb.New(now.Add(-24 * time.Hour))})
	var all []event.Event
	if err := json.Unmarshal([]byte(c.good(t, "audit", "ls", "--format=json", "--since=2026-03-01T00:00:00Z")), &all); err != nil || len(all) != 7 {
		t.Errorf("%v, %d events", err, len(all))
	}
	c.asked(t, &dtv1.ListAuditRequest{Limit: 1000, Since: timestamppb.New(now.Add(-12 * time.Hour))})

	// Page by page, and where there is more it says so.
	list.Before = 17
	if r := c.run(t, "audit", "ls", "--limit=9", "--format=json"); r.status != 0 || strings.Count(r.out, `"event"`) != 14 || r.errors != "" {
		t.Errorf("%+v", r)
	}
	c.asked(t, &dtv1.ListAuditRequest{Limit: 2, Before: 17})
	for range 996 {
		list.Events = append(list.Events, list.Events[0])
	}
	if r := c.run(t, "audit", "ls"); r.status != 0 || r.errors != "Only the newest 1000 records are listed: --limit=0 lists all.\n" {
		t.Errorf("%d: %q", r.status, r.errors)
	}
}

func TestVerifyFailsWhereTheRecordIsBroken(t *testing.T) {
	c := startCluster(t)
	c.answers["VerifyAudit"] = &dtv1.VerifyAuditResponse{Intact: true, Records: 12}
	c.prints(t, "The audit record is intact: 12 records, none removed or changed\n", "audit", "verify")
	c.answers["VerifyAudit"] = &dtv1.VerifyAuditResponse{Records: 12, Problem: "record 7 is missing"}
	for _, format := range []string{"text", "json", "yaml"} {
		r := c.run(t, "audit", "verify", "--format="+format)
		if r.status != 1 || !strings.HasPrefix(r.errors, "ERROR: the audit record has been tampered with: record 7 is missing\n") {
			t.Errorf("%s: %+v", format, r)
		}
	}
	// An answer that says nothing does not say that all is well.
	delete(c.answers, "VerifyAudit")
	if r := c.run(t, "audit", "verify"); r.status != 1 {
		t.Errorf("%+v", r)
	}
}

func TestADecisionIsExplained(t *testing.T) {
	c := startCluster(t)
	c.answers["Explain"] = &dtv1.ExplainResponse{
		Reason: "access to resource requires a trusted device",
		Rules: []*dtv1.ExplainRule{
			{Effect: "allow", Source: `role "access" allow.logins`, Detail: "root"},
			{Effect: "require", Source: `role "x" options.device_trust_mode`, Detail: "required"},
		},
		Changes: []string{"log in on an enrolled device"},
	}
	c.prints(t, `DENY alice as root on web-1: access to resource requires a trusted device

Effect  Rule                               Detail
------- ---------------------------------- --------
allow   role "access" allow.logins         root
require role "x" options.device_trust_mode required

What would change it:
  log in on an enrolled device
`, "explain", "--user=alice", "--login=root", "--node=web-1", "--device=C00")
	c.asked(t, &dtv1.ExplainRequest{User: "alice", Login: "root", Node: "web-1", Device: "C00"})
	c.answers["Explain"] = &dtv1.ExplainResponse{Allowed: true, Reason: "granted"}
	c.prints(t, "ALLOW alice as root on web-1: granted\n", "explain", "--user=alice", "--login=root", "--node=web-1")
	c.prints(t, `{
  "allowed": true,
  "reason": "granted",
  "rules": [],
  "changes": []
}
`, "explain", "--user=alice", "--login=root", "--node=web-1", "--format=json")
}

func TestExplainSaysWhatTheNodeDecidesBy(t *testing.T) {
	c := startCluster(t)
	args := []string{"explain", "--user=alice", "--login=root", "--node=web-1"}
	for want, st := range map[string]*dtv1.NodeStateReport{
		"Node web-1 (dtnoded) has not told what it decides by\n": {Enforcer: "dtnoded", CurrentSequence: 45},
		"Node web-1 (sshd) decides by change 45 of 45, confirmed 3s ago (reported 12s ago)\n": {
			Enforcer: "sshd", Sequence: 45, CurrentSequence: 45, Confirmed: timestamppb.New(now.Add(-3 * time.Second)), Reported: timestamppb.New(now.Add(-12 * time.Second)),
		},
		"Node web-1 (sshd) decides by change 42 of 45, confirmed 1h0m0s ago (reported 0s ago)\n" +
			"It has not told yet that it heard of the rest: the above is what it decides once it has\n": {
			Enforcer: "sshd", Sequence: 42, CurrentSequence: 45, Confirmed: timestamppb.New(now.Add(-time.Hour)), Reported: timestamppb.New(now.Add(time.Hour)),
		},
		"Node web-1 (sshd) decides by change 46 of 45, confirmed never (reported never)\n" +
			"The cluster does not have that change: was a backup put in its place?\n": {Enforcer: "sshd", Sequence: 46, CurrentSequence: 45},
	} {
		c.answers["Explain"] = &dtv1.ExplainResponse{Allowed: true, Reason: "granted", State: st}
		c.prints(t, "ALLOW alice as root on web-1: granted\n\n"+want, args...)
	}
	c.answers["Explain"] = &dtv1.ExplainResponse{Reason: "no", State: &dtv1.NodeStateReport{
		Enforcer: "sshd", Sequence: 42, CurrentSequence: 45, Confirmed: timestamppb.New(now), Reported: nil,
	}}
	c.prints(t, `{
  "allowed": false,
  "reason": "no",
  "rules": [],
  "changes": [],
  "state": {
    "enforcer": "sshd",
    "sequence": 42,
    "confirmed": "2026-03-01T12:00:00Z",
    "reported": null,
    "current_sequence": 45
  }
}
`, append(args, "--format=json")...)
}

func TestExplainAsksAboutForwarding(t *testing.T) {
	c := startCluster(t)
	args := []string{"explain", "--user=alice", "--login=root", "--node=web-1"}
	for flag, want := range map[string]*dtv1.ExplainForward{
		"--forward=db1:5432":     {Host: "db1", Port: 5432},
		"--forward=[::1]:22":     {Host: "::1", Port: 22},
		"--forward=/run/s":       {Path: "/run/s"},
		"--listen=8080":          {Listen: true, Port: 8080},
		"--listen=0":             {Listen: true},
		"--listen=localhost:80":  {Listen: true, Host: "localhost", Port: 80},
		"--listen=/run/listen.s": {Listen: true, Path: "/run/listen.s"},
	} {
		c.good(t, append(args, flag)...)
		c.asked(t, &dtv1.ExplainRequest{User: "alice", Login: "root", Node: "web-1", Forward: want})
	}
	for _, flag := range []string{"--forward=db1", "--forward=:22", "--forward=db1:0", "--forward=db1:65536", "--forward=a:b:c", "--listen=x", "--listen=70000", "--from=192.0.2.7"} {
		if r := c.run(t, append(args, flag)...); r.status != 2 {
			t.Errorf("%s: %+v", flag, r)
		}
	}
}

func TestExplainTakesACertificateFile(t *testing.T) {
	c := startCluster(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: signer.PublicKey(), KeyId: "alice", CertType: ssh.UserCert}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	name := file(t, string(ssh.MarshalAuthorizedKey(cert)))
	args := []string{"explain", "--login=root", "--node=web-1", "--certificate=" + name}
	c.good(t, args...)
	c.asked(t, &dtv1.ExplainRequest{User: "alice", Login: "root", Node: "web-1", Certificate: cert.Marshal()})
	for content, want := range map[string]string{
		"nonsense": "no SSH certificate in it",
		string(ssh.MarshalAuthorizedKey(signer.PublicKey())): "want a certificate, got a ssh-ed25519 key",
	} {
		r := c.run(t, append(args[:3:3], "--certificate="+file(t, content))...)
		if r.status != 1 || !strings.Contains(r.errors, want) {
			t.Errorf("%+v", r)
		}
	}
	if r := c.run(t, append(args, "--user=bob")...); r.status != 1 || !strings.Contains(r.errors, `of "bob"`) {
		t.Errorf("%+v", r)
	}
}

func TestStatusShowsTheCluster(t *testing.T) {
	c := startCluster(t)
	c.answers["Status"] = &dtv1.StatusResponse{
		Cluster: "example", Version: "0.1.0", CaPins: []string{"sha256:aa"}, PublicAddresses: []string{"dt.example:3080"},
		DeviceTrustMode: "optional", Counts: map[string]int64{"users": 2, "devices_enrolled": 1},
	}
	c.prints(t, `Cluster:          example
Version:          0.1.0
Addresses:        dt.example:3080
Device trust:     optional
CA pin:           sha256:aa
Devices enrolled: 1
Users:            2
`, "status")
	c.prints(t, `{
  "cluster": "example",
  "version": "0.1.0",
  "ca_pins": [
    "sha256:aa"
  ],
  "counts": {
    "devices_enrolled": 1,
    "users": 2
  },
  "public_addresses": [
    "dt.example:3080"
  ],
  "device_trust_mode": "optional"
}
`, "status", "--format=json")
}
