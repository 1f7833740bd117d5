package authd

import (
	"context"
	"errors"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices"
)

// SyncDevices takes the sources over, one after another, and says of each how
// far it is. Whoever leaves ends the run.
func (h deviceService) SyncDevices(ctx context.Context, req *connect.Request[dtv1.SyncDevicesRequest], stream *connect.ServerStream[dtv1.SyncDevicesResponse]) error {
	names, err := h.s.sourcesNamed(req.Msg.GetSource())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.s.stopping, cancel)()
	for _, name := range names {
		err := h.syncOne(ctx, name, req.Msg.GetFull(), len(names) == 1, stream.Send)
		if h.s.stopping.Err() != nil {
			return api.Refuse(connect.CodeUnavailable, "dtauthd is stopping")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sourcesNamed are all where name is empty.
func (s *Server) sourcesNamed(name string) ([]string, error) {
	names := s.mdm.Names()
	switch {
	case len(names) == 0:
		return nil, api.Refuse(connect.CodeFailedPrecondition, "no device management system is configured").
			WithHint("Name one under mdm in the file of dtauthd's --config")
	case name == "":
		return names, nil
	case !slices.Contains(names, name):
		return nil, api.Refuse(connect.CodeNotFound, "there is no source %.64q", name).WithHint("There are: %s", strings.Join(names, ", "))
	}
	return []string{name}, nil
}

// syncOne tells of a failure in the last message about the source, so that
// the others come to their turn; where it is alone, that another run has it is
// the answer.
func (h deviceService) syncOne(ctx context.Context, name string, full, alone bool, send func(*dtv1.SyncDevicesResponse) error) error {
	h.s.allowSend(ctx, syncSilence)
	progress := func(c devices.SyncCounts) {
		h.s.allowSend(ctx, syncSilence)
		if err := send(syncResponse(name, full, c)); err != nil {
			h.s.log.Debug("nobody hears how far a synchronization is", "error", err)
		}
	}
	counts, err := h.s.mdm.Sync(ctx, callerOf(ctx).actor, name, full, progress)
	refused, isRefusal := errors.AsType[*api.Refusal](err)
	if err != nil && (!isRefusal || alone && refused.Code == connect.CodeAborted) {
		return err
	}
	done := syncResponse(name, full, counts)
	done.Done = true
	if refused != nil {
		done.Failure = refused.Message
		if refused.Hint != "" {
			done.Failure += ". " + refused.Hint
		}
	}
	h.s.allowSend(ctx, syncSilence)
	return send(done)
}

func syncResponse(name string, full bool, c devices.SyncCounts) *dtv1.SyncDevicesResponse {
	return &dtv1.SyncDevicesResponse{
		Source: name, Full: full, Seen: c.Seen, Created: c.Created, Updated: c.Updated, Unchanged: c.Unchanged,
		Deleted: c.Deleted, Skipped: c.Skipped, Problems: c.Problems,
	}
}
