package authd

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/devices/mdm"
)

func assetsFile(t *testing.T, text string) mdm.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assets.csv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return mdm.Config{Name: "assets", Type: "file", Path: path, OnMissing: "delete"}
}

func startMDM(t *testing.T, sources ...mdm.Config) *running {
	t.Helper()
	return startWith(t, dataDir(t), "", time.Now, func(c *Config) { c.MDM = sources })
}

// sync gives the last message about each source.
func (r *running) sync(ctx context.Context, req *dtv1.SyncDevicesRequest) (done []*dtv1.SyncDevicesResponse, err error) {
	stream, err := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin").SyncDevices(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		if m := stream.Msg(); m.GetDone() {
			done = append(done, m)
		}
	}
	return done, stream.Err()
}

func (r *running) eventsOf(kind event.Type) int {
	r.t.Helper()
	res, err := r.adminService().ListAudit(r.t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(kind)}))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(res.Msg.GetEvents())
}

func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestAStartSynchronizesWhatIsDueAndARestartDoesNotRepeatIt(t *testing.T) {
	dir, source := dataDir(t), assetsFile(t, "os_type,asset_tag\nlinux,PF1\n")
	with := func(c *Config) { c.MDM = []mdm.Config{source} }
	r := startWith(t, dir, "", time.Now, with)
	r.until("the schedule has run", func() bool { return r.eventsOf(event.DeviceSync) == 1 })
	r.until("its lease is given back", func() bool {
		_, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{Source: "assets", Full: true})
		return connect.CodeOf(err) != connect.CodeAborted
	})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = startWith(t, dir, "", time.Now, with)
	done, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []*dtv1.SyncDevicesResponse{{Source: "assets", Full: true, Seen: 1, Unchanged: 1, Done: true}}
	if diff := cmp.Diff(want, done, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if n := r.eventsOf(event.DeviceSync); n != 3 {
		t.Errorf("%d runs were recorded, want one of the schedule and two that were asked for", n)
	}
}

func TestASourceThatFailsDoesNotKeepTheOthersFromTheirTurn(t *testing.T) {
	broken := assetsFile(t, "os_type\n")
	broken.Name = "broken"
	r := startMDM(t, broken, assetsFile(t, "os_type,asset_tag\nlinux,PF1\n"))
	r.until("the schedule has run", func() bool { return r.eventsOf(event.DeviceSync) == 2 })
	var done []*dtv1.SyncDevicesResponse
	r.until("both were read", func() (ok bool) {
		var err error
		done, err = r.sync(t.Context(), &dtv1.SyncDevicesRequest{Full: true})
		return err == nil && len(done) == 2 && done[1].GetFailure() == ""
	})
	if f := done[0].GetFailure(); !strings.Contains(f, "column asset_tag is missing") {
		t.Errorf("the first says %q", f)
	}
	if done[1].GetSeen() != 1 {
		t.Errorf("the second is %v", done[1])
	}
}

func TestWithoutASourceTheAnswerSaysSo(t *testing.T) {
	r := start(t)
	_, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{})
	wantCode(t, err, connect.CodeFailedPrecondition)
	r = startMDM(t, assetsFile(t, "os_type,asset_tag\nlinux,PF1\n"))
	_, err = r.sync(t.Context(), &dtv1.SyncDevicesRequest{Source: "jamf"})
	wantCode(t, err, connect.CodeNotFound)
}

func TestNoDeviceIsTakenOverWithoutItsRecord(t *testing.T) {
	source := assetsFile(t, "os_type,asset_tag,os_version\nlinux,PF1,1\nlinux,PF2,1\n")
	r := startMDM(t, source)
	r.until("the schedule has run", func() bool { return r.eventsOf(event.DeviceSync) == 1 })
	r.until("its lease is given back", func() bool {
		_, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{Full: true})
		return err == nil
	})
	db := r.database()
	if _, err := db.ExecContext(t.Context(), `CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'the record is full'); END`); err != nil {
		t.Fatal(err)
	}
	inventory := func() (text string) {
		err := db.QueryRowContext(t.Context(), `SELECT group_concat(document, '\n') FROM (SELECT document FROM devices ORDER BY id)`).Scan(&text)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := inventory()
	for what, lines := range map[string]string{
		"nothing": "linux,PF1,1\nlinux,PF2,1\n", "a new one": "linux,PF1,1\nlinux,PF2,1\nlinux,PF3,1\n",
		"a change": "linux,PF1,2\nlinux,PF2,1\n", "a deletion": "linux,PF1,1\n",
	} {
		if err := os.WriteFile(source.Path, []byte("os_type,asset_tag,os_version\n"+lines), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{Source: "assets", Full: true})
		if connect.CodeOf(err) != connect.CodeInternal {
			t.Errorf("%s: got %v, want an internal error", what, err)
		}
		if diff := cmp.Diff(before, inventory()); diff != "" {
			t.Errorf("%s happened: %s", what, diff)
		}
	}
}

// slow is a file on the web, of which only a part comes while hangs is set.
func slow(t *testing.T, hangs *atomic.Bool) mdm.Config {
	t.Helper()
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("os_type,asset_tag\n" + strings.Repeat("linux,PF1\n", 500)))
		w.(http.Flusher).Flush()
		if !hangs.Load() {
			return
		}
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(over) })
	return mdm.Config{Name: "slow", Type: "file", URL: server.URL}
}

// startHanging begins a run that hangs, and tells how it ended.
func startHanging(ctx context.Context, t *testing.T) (r *running, ended <-chan error) {
	t.Helper()
	hangs := &atomic.Bool{}
	r = startMDM(t, slow(t, hangs))
	r.until("the schedule has run", func() bool { return r.eventsOf(event.DeviceSync) == 1 })
	r.until("its lease is given back", func() bool {
		_, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{Source: "slow"})
		return err == nil
	})
	hangs.Store(true)
	stream, err := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin").SyncDevices(ctx, connect.NewRequest(&dtv1.SyncDevicesRequest{Source: "slow", Full: true}))
	if err != nil || !stream.Receive() || stream.Msg().GetDone() {
		t.Fatalf("it does not hang: %v", err)
	}
	end := make(chan error, 1)
	go func() {
		for stream.Receive() {
		}
		end <- stream.Err()
	}()
	return r, end
}

func TestWhoLeavesEndsTheRunAndUntilThenAnotherIsRefused(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	r, _ := startHanging(ctx, t)
	_, err := r.sync(t.Context(), &dtv1.SyncDevicesRequest{Source: "slow", Full: true})
	wantCode(t, err, connect.CodeAborted)
	leave()
	r.until("the run has ended", func() bool {
		res, err := r.adminService().ListAudit(t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(event.DeviceSync), Failed: true}))
		return err == nil && len(res.Msg.GetEvents()) == 1 && strings.Contains(string(res.Msg.GetEvents()[0]), "context canceled")
	})
}

func TestAStopEndsARunThatSomebodyAskedFor(t *testing.T) {
	r, ended := startHanging(t.Context(), t)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	wantCode(t, <-ended, connect.CodeUnavailable)
	if strings.Contains(r.log.String(), "did not end in time") {
		t.Error("it waited for the run in vain")
	}
}

func TestASourceThatCannotBeUsedKeepsDtauthdFromStarting(t *testing.T) {
	err := Run(t.Context(), Config{
		DataDir: dataDir(t), Listen: "127.0.0.1:0", DiagListen: "off", Log: slog.New(slog.DiscardHandler), Now: time.Now,
		MDM: []mdm.Config{{Name: "jamf", Type: "jamf"}},
	}, nil, nil)
	wantRefused(t, err, connect.CodeInvalidArgument)
}
