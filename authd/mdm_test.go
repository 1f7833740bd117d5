package authd

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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

// hanging gives the first batch of a file, and then nothing.
func hanging(t *testing.T) mdm.Config {
	t.Helper()
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("os_type,asset_tag\n" + strings.Repeat("linux,PF1\n", 500)))
		w.(http.Flusher).Flush()
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(over) })
	return mdm.Config{Name: "slow", Type: "file", URL: server.URL}
}

func TestWhoLeavesEndsTheRunAndWhileItRunsAnotherIsRefused(t *testing.T) {
	r := startWith(t, dataDir(t), "", time.Now, func(c *Config) { c.MDM = []mdm.Config{hanging(t)} })
	// The schedule has begun a run, which hangs.
	r.until("the source is taken", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.sync(ctx, &dtv1.SyncDevicesRequest{Source: "slow", Full: true})
		return connect.CodeOf(err) == connect.CodeAborted
	})
	if err := r.stop(); err != nil {
		t.Errorf("it did not stop: %v", err)
	}
	if !strings.Contains(r.log.String(), "stopping") {
		t.Error("it ended without stopping")
	}
}

func TestASourceThatCannotBeUsedKeepsDtauthdFromStarting(t *testing.T) {
	err := Run(t.Context(), Config{
		DataDir: dataDir(t), Listen: "127.0.0.1:0", DiagListen: "off", Log: slog.New(slog.DiscardHandler), Now: time.Now,
		MDM: []mdm.Config{{Name: "jamf", Type: "jamf"}},
	}, nil, nil)
	wantRefused(t, err, connect.CodeInvalidArgument)
}
