package authd

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

// database is the store's file, opened beside the server.
func (r *running) database() *sql.DB {
	r.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(r.dir, "dt.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return db
}

// everything is the content of each table but those that are not acts: what
// limits guessing counts where nothing is recorded, too.
func everything(t *testing.T, db *sql.DB) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, table := range column(t, db, `SELECT name FROM sqlite_master WHERE type = 'table'`) {
		if table == "attempts" {
			continue
		}
		columns := column(t, db, `SELECT 'hex("' || name || '")' FROM pragma_table_info('`+table+`')`)
		out[table] = column(t, db, fmt.Sprintf(`SELECT %s FROM %s`, strings.Join(columns, ` || '|' || `), table))
		slices.Sort(out[table])
	}
	return out
}

func column(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// unrecorded are the methods that read, or, in the case of Heartbeat, say
// that a node lives; the ceremonies have this test in devices, and SyncDevices,
// which also notes when it is to be tried again, one of its own.
var unrecorded = []string{
	"SyncDevices",
	"Heartbeat", "Follow", "GetResource", "ListResources", "ListNodes", "ListAudit", "VerifyAudit", "Explain",
	"ExportAuthority", "ExportKRL", "Status", "ListDevices", "EnrollDevice", "AuthenticateDevice", "DiagnoseDevice", "ExplainAutoEnroll",
	"EvaluateDevices",
}

// Every act of every method, where its record cannot be written.
func TestNothingHappensWithoutItsRecord(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access", "editor")
	invited, err := r.adminService().AddUser(t.Context(), connect.NewRequest(&dtv1.AddUserRequest{Name: "guest", Roles: []string{"access"}}))
	if err != nil {
		t.Fatal(err)
	}
	devices := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin")
	if _, err := devices.AddDevice(t.Context(), connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "linux", AssetTag: "TAG12345"})); err != nil {
		t.Fatal(err)
	}
	r.autoEnroll()
	lock := `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {user: nobody}}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: []byte(lock)})); err != nil {
		t.Fatal(err)
	}
	node, person, token := r.join("n"), r.login("alice"), r.joinToken(nil)
	enrolled := r.newLaptop("TAG55555")
	enrolled.enroll(person)
	tokens, err := r.resources().ListResources(t.Context(), connect.NewRequest(&dtv1.ListResourcesRequest{Kind: "token"}))
	if err != nil || len(tokens.Msg.GetResources()) != 1 {
		t.Fatal(tokens, err)
	}
	_, rest, _ := strings.Cut(string(tokens.Msg.GetResources()[0]), `"name":"`)
	tokenName, _, _ := strings.Cut(rest, `"`)

	db := r.database()
	if _, err := db.ExecContext(t.Context(), `CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'the record is full'); END`); err != nil {
		t.Fatal(err)
	}
	before := everything(t, db)

	ctx := t.Context()
	logins := dtv1connect.NewLoginServiceClient(r.https(nil), r.url())
	own := dtv1connect.NewLoginServiceClient(r.https(person), r.url())
	machines := dtv1connect.NewDeviceServiceClient(r.https(person), r.url())
	join := dtv1connect.NewNodeServiceClient(r.https(nil), r.url())
	nodes := dtv1connect.NewNodeServiceClient(r.https(node), r.url())
	resources, admin := r.resources(), r.adminService()
	fresh := newKeys(t)
	sshKey := fresh.ssh.PublicKey().Marshal()
	password := goodPassword
	ref := &dtv1.DeviceRef{AssetTag: "TAG12345"}
	user := []byte(`{kind: user, version: v2, metadata: {name: alice}, spec: {roles: [access]}}`)
	role := []byte(`{kind: role, version: v7, metadata: {name: fresh}, spec: {allow: {logins: [root]}}}`)
	acts := map[string]func() error{
		"Login": func() error {
			return fails(logins.Login(ctx, connect.NewRequest(&dtv1.LoginRequest{User: "alice", Password: goodPassword, SshPublicKey: sshKey, TlsPublicKey: fresh.der})))
		},
		"Login with a wrong password": func() error {
			return fails(logins.Login(ctx, connect.NewRequest(&dtv1.LoginRequest{User: "alice", Password: "wrong", SshPublicKey: sshKey, TlsPublicKey: fresh.der})))
		},
		"AcceptInvite": func() error {
			return fails(logins.AcceptInvite(ctx, connect.NewRequest(&dtv1.AcceptInviteRequest{Token: invited.Msg.GetToken(), Password: goodPassword})))
		},
		"ChangePassword": func() error {
			return fails(own.ChangePassword(ctx, connect.NewRequest(&dtv1.ChangePasswordRequest{OldPassword: goodPassword, NewPassword: "another horse"})))
		},
		"Logout": func() error { return fails(own.Logout(ctx, connect.NewRequest(&dtv1.LogoutRequest{}))) },
		"AddDevice": func() error {
			return fails(devices.AddDevice(ctx, connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "linux", AssetTag: "TAG99999", Enroll: true})))
		},
		"CreateDevices": func() error {
			return fails(createDevices(ctx, devices, false, device("TAG99999"), device("TAG88888")))
		},
		"CreateDevices that replaces": func() error {
			return fails(createDevices(ctx, devices, true, device("TAG99999"), device("TAG12345")))
		},
		"RemoveDevice": func() error {
			return fails(devices.RemoveDevice(ctx, connect.NewRequest(&dtv1.RemoveDeviceRequest{Device: ref})))
		},
		"AcceptDevice": func() error {
			return fails(devices.AcceptDevice(ctx, connect.NewRequest(&dtv1.AcceptDeviceRequest{Device: &dtv1.DeviceRef{AssetTag: "TAG55555"}})))
		},
		"CreateEnrollToken": func() error {
			return fails(devices.CreateEnrollToken(ctx, connect.NewRequest(&dtv1.CreateEnrollTokenRequest{Device: ref})))
		},
		"RegisterCurrentDevice": func() error {
			return fails(machines.RegisterCurrentDevice(ctx, connect.NewRequest(&dtv1.RegisterCurrentDeviceRequest{Device: &dtv1.DeviceData{OsType: "linux", AssetTag: "TAG77777"}})))
		},
		"CreateAutoEnrollToken": func() error {
			return fails(machines.CreateAutoEnrollToken(ctx, connect.NewRequest(&dtv1.CreateAutoEnrollTokenRequest{Device: &dtv1.DeviceData{OsType: "linux", AssetTag: "TAG12345"}})))
		},
		"Join": func() error {
			return fails(join.Join(ctx, connect.NewRequest(&dtv1.JoinRequest{Token: token, Node: nodeInfo("m"), SshPublicKey: sshKey, TlsPublicKey: fresh.der})))
		},
		"Renew": func() error {
			return fails(nodes.Renew(ctx, connect.NewRequest(&dtv1.RenewRequest{Node: nodeInfo("renamed"), SshPublicKey: sshKey, TlsPublicKey: fresh.der})))
		},
		"RecordEvents": func() error {
			return fails(nodes.RecordEvents(ctx, connect.NewRequest(&dtv1.RecordEventsRequest{Events: [][]byte{[]byte(`{"event":"session.start","uid":"u1","time":"2026-01-02T03:04:05Z"}`)}})))
		},
		"CreateResource": func() error {
			return fails(resources.CreateResource(ctx, connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "role", Resource: role})))
		},
		"UpdateResource": func() error {
			return fails(resources.UpdateResource(ctx, connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "user", Resource: user})))
		},
		"UpdateResource that creates": func() error {
			return fails(resources.UpdateResource(ctx, connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "role", Resource: role})))
		},
		"AddUser": func() error {
			return fails(admin.AddUser(ctx, connect.NewRequest(&dtv1.AddUserRequest{Name: "new", Roles: []string{"access"}, Password: &password})))
		},
		"AddUser invited": func() error {
			return fails(admin.AddUser(ctx, connect.NewRequest(&dtv1.AddUserRequest{Name: "new", Roles: []string{"access"}, Ttl: durationpb.New(1e12)})))
		},
		"ResetUser": func() error {
			return fails(admin.ResetUser(ctx, connect.NewRequest(&dtv1.ResetUserRequest{Name: "alice"})))
		},
		"AddToken": func() error {
			return fails(admin.AddToken(ctx, connect.NewRequest(&dtv1.AddTokenRequest{Type: "node"})))
		},
	}
	for kind, name := range map[string]string{
		"user": "alice", "role": "auditor", "lock": "l1", "cluster_auth_preference": "", "device": "TAG12345", "token": tokenName, "node": "n",
	} {
		acts["DeleteResource of a "+kind] = func() error {
			return fails(resources.DeleteResource(ctx, connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: kind, Name: name})))
		}
	}
	declared, err := declaredAccess()
	if err != nil {
		t.Fatal(err)
	}
	for procedure := range declared {
		name := string(protoreflect.FullName(procedure[strings.LastIndex(procedure, "/")+1:]))
		if !slices.Contains(unrecorded, name) && !slices.ContainsFunc(keysOf(acts), func(a string) bool { return strings.HasPrefix(a, name) }) {
			t.Errorf("%s is neither an act of this test nor among those that need no record", name)
		}
	}
	for name, act := range acts {
		if err := act(); connect.CodeOf(err) != connect.CodeInternal {
			t.Errorf("%s: got %v, want an internal error", name, err)
		}
		if diff := cmp.Diff(before, everything(t, db)); diff != "" {
			t.Errorf("%s happened: %s", name, diff)
			before = everything(t, db)
		}
	}
}

func fails[T any](_ *connect.Response[T], err error) error { return err }

func keysOf[T any](m map[string]T) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}
