package authd

import (
	"context"
	"errors"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/resource"
)

// acts are what a verb on a kind of resource is called in the record.
var acts = map[string]map[string]event.Type{
	resource.KindDevice: {
		"create": event.DeviceCreate, "update": event.DeviceUpdate, "delete": event.DeviceDelete, "enroll": event.DeviceTokenCreate,
	},
	resource.KindUser:       {"create": event.UserCreate, "update": event.UserUpdate, "delete": event.UserDelete},
	resource.KindRole:       {"create": event.RoleCreate, "update": event.RoleUpdate, "delete": event.RoleDelete},
	resource.KindLock:       {"create": event.LockCreate, "update": event.LockUpdate, "delete": event.LockDelete},
	resource.KindPreference: {"create": event.PreferenceUpdate, "update": event.PreferenceUpdate},
	resource.KindToken:      {"create": event.JoinTokenCreate, "delete": event.JoinTokenDelete},
	resource.KindNode:       {"delete": event.NodeDelete},
}

// recordRefusedAct audits what a caller with the right to it could not do for
// what was asked: a tag that is registered, a certificate of no CA. What was to
// be found out only, and what is recorded already, is not.
func (s *Server) recordRefusedAct(ctx context.Context, procedure string, access *dtv1.Access, kind string, cause error) {
	refusal, ok := errors.AsType[*api.Refusal](cause)
	if !ok || audit.IsRecorded(cause) || access.GetWho() != dtv1.Access_WHO_RULE || len(access.GetVerbs()) == 0 {
		return
	}
	if access.GetResource() != "" {
		kind = access.GetResource()
	} else if known, ok := resource.NormalizeKind(kind); ok {
		kind = known
	}
	verb := access.GetVerbs()[len(access.GetVerbs())-1]
	act, ok := acts[kind][verb]
	if procedure == dtv1connect.DeviceServiceAcceptDeviceProcedure {
		act = event.DeviceAccept
	}
	if ok {
		s.recordBounded(ctx, procedure, event.Event{Type: act, User: callerOf(ctx).actor, Message: refusal.Message})
	}
}
