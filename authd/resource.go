package authd

import (
	"context"
	"errors"
	"reflect"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/ca"
	"devicetrust/resource"
	"devicetrust/store"
)

// resourceService is get, create, edit and rm of every kind. What a kind can
// do stands in kinds.
type resourceService struct{ s *Server }

var _ dtv1connect.ResourceServiceHandler = resourceService{}

// kindOps is what one kind of resource can do; nil is "not with this kind".
type kindOps struct {
	list   func(ctx context.Context) ([]resource.Resource, error)
	get    func(ctx context.Context, name string) (resource.Resource, error)
	create func(ctx context.Context, r resource.Resource) error
	update func(ctx context.Context, r resource.Resource, revision string) error
	delete func(ctx context.Context, name string) error
}

func (s *Server) kinds() map[string]kindOps {
	catalog := func(kind string) kindOps {
		return kindOps{
			list: func(ctx context.Context) ([]resource.Resource, error) { return s.catalog.List(ctx, kind) },
			get: func(ctx context.Context, name string) (resource.Resource, error) {
				return s.catalog.Get(ctx, kind, name)
			},
			create: func(ctx context.Context, r resource.Resource) error {
				if err := s.aimLock(ctx, r); err != nil {
					return err
				}
				return s.catalog.Create(ctx, callerOf(ctx).actor, r)
			},
			update: func(ctx context.Context, r resource.Resource, revision string) error {
				if err := s.aimLock(ctx, r); err != nil {
					return err
				}
				return s.catalog.Update(ctx, callerOf(ctx).actor, r, revision)
			},
			delete: func(ctx context.Context, name string) error {
				return s.catalog.Delete(ctx, callerOf(ctx).actor, kind, name, s.roleUnused(kind, name))
			},
		}
	}
	return map[string]kindOps{
		resource.KindRole:          catalog(resource.KindRole),
		resource.KindLock:          catalog(resource.KindLock),
		resource.KindPreference:    catalog(resource.KindPreference),
		resource.KindUser:          {s.listUsers, s.getUser, s.createUser, s.updateUser, s.deleteUser},
		resource.KindDevice:        {s.listDevices, s.getDevice, s.createDevice, s.updateDevice, s.deleteDevice},
		resource.KindToken:         {list: s.listTokens, get: s.getToken, delete: s.deleteToken},
		resource.KindNode:          {list: s.listNodes, get: s.getNode, delete: s.deleteNode},
		resource.KindCertAuthority: {list: s.listAuthorities, get: s.getAuthority},
	}
}

func knownKind(kind string) (string, error) {
	if k, ok := resource.NormalizeKind(kind); ok {
		return k, nil
	}
	return "", api.Refuse(connect.CodeInvalidArgument, "unknown kind of resource %.64q", kind)
}

// ops finds what kind can do.
func (s *Server) ops(kind string) (kindOps, string, error) {
	k, err := knownKind(kind)
	if err != nil {
		return kindOps{}, "", err
	}
	ops, ok := s.kinds()[k]
	if !ok {
		return kindOps{}, "", api.Refuse(connect.CodeInvalidArgument, "%s is not a kind of resource that can be read or changed", k)
	}
	return ops, k, nil
}

func unsupported(verb, kind string) error {
	return api.Refuse(connect.CodeInvalidArgument, "a %s cannot be %s like this", kind, verb)
}

func (h resourceService) GetResource(ctx context.Context, req *connect.Request[dtv1.GetResourceRequest]) (*connect.Response[dtv1.GetResourceResponse], error) {
	ops, _, err := h.s.ops(req.Msg.GetKind())
	if err != nil {
		return nil, err
	}
	r, err := ops.get(ctx, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	doc, err := resource.MarshalJSON(r)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.GetResourceResponse{Resource: doc}), nil
}

func (h resourceService) ListResources(ctx context.Context, req *connect.Request[dtv1.ListResourcesRequest]) (*connect.Response[dtv1.ListResourcesResponse], error) {
	ops, _, err := h.s.ops(req.Msg.GetKind())
	if err != nil {
		return nil, err
	}
	all, err := ops.list(ctx)
	if err != nil {
		return nil, err
	}
	out := &dtv1.ListResourcesResponse{}
	for _, r := range all {
		doc, err := resource.MarshalJSON(r)
		if err != nil {
			return nil, err
		}
		out.Resources = append(out.Resources, doc)
	}
	return connect.NewResponse(out), nil
}

// parse reads the one document of a request, which must be of the kind that
// the caller's rights were checked for.
func parse(doc []byte, kind string) (resource.Resource, error) {
	all, err := resource.ParseYAML(doc)
	if err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "%v", err)
	}
	if len(all) != 1 {
		return nil, api.Refuse(connect.CodeInvalidArgument, "one resource is wanted, got %d", len(all))
	}
	if got := all[0].Head().Kind; got != kind {
		return nil, api.Refuse(connect.CodeInvalidArgument, "a %s is wanted, the document is a %s", kind, got)
	}
	return all[0], nil
}

func (h resourceService) CreateResource(ctx context.Context, req *connect.Request[dtv1.CreateResourceRequest]) (*connect.Response[dtv1.ResourceChanged], error) {
	ops, kind, err := h.s.ops(req.Msg.GetKind())
	if err != nil {
		return nil, err
	}
	if ops.create == nil {
		return nil, unsupported("created", kind)
	}
	r, err := parse(req.Msg.GetResource(), kind)
	if err != nil {
		return nil, err
	}
	if err := ops.create(ctx, r); err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ResourceChanged{Kind: kind, Name: r.Head().Metadata.Name, Created: true}), nil
}

// UpdateResource replaces what exists. Without a revision it also creates
// what does not.
func (h resourceService) UpdateResource(ctx context.Context, req *connect.Request[dtv1.UpdateResourceRequest]) (*connect.Response[dtv1.ResourceChanged], error) {
	ops, kind, err := h.s.ops(req.Msg.GetKind())
	if err != nil {
		return nil, err
	}
	if ops.update == nil {
		return nil, unsupported("changed", kind)
	}
	r, err := parse(req.Msg.GetResource(), kind)
	if err != nil {
		return nil, err
	}
	created := false
	err = ops.update(ctx, r, req.Msg.GetRevision())
	if req.Msg.GetRevision() == "" && isNotFound(err) {
		created, err = true, ops.create(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ResourceChanged{Kind: kind, Name: r.Head().Metadata.Name, Created: created}), nil
}

func (h resourceService) DeleteResource(ctx context.Context, req *connect.Request[dtv1.DeleteResourceRequest]) (*connect.Response[dtv1.ResourceChanged], error) {
	ops, kind, err := h.s.ops(req.Msg.GetKind())
	if err != nil {
		return nil, err
	}
	if ops.delete == nil {
		return nil, unsupported("removed", kind)
	}
	if err := ops.delete(ctx, req.Msg.GetName()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ResourceChanged{Kind: kind, Name: req.Msg.GetName()}), nil
}

func isNotFound(err error) bool {
	var r *api.Refusal
	return errors.As(err, &r) && r.Code == connect.CodeNotFound
}

// Users.

func (s *Server) listUsers(ctx context.Context) (out []resource.Resource, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		users, err := s.login.ListUsers(tx)
		for i := range users {
			if err := s.completeUser(tx, &users[i]); err != nil {
				return err
			}
			out = append(out, &users[i])
		}
		return err
	})
	return out, err
}

func (s *Server) getUser(ctx context.Context, name string) (resource.Resource, error) {
	var u resource.User
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		if u, err = s.login.GetUser(tx, name); err != nil {
			return err
		}
		return s.completeUser(tx, &u)
	})
	return &u, err
}

// completeUser adds what other rooms know of a user.
func (s *Server) completeUser(tx *store.Tx, u *resource.User) (err error) {
	u.Spec.TrustedDeviceIDs, err = s.devices.OwnedBy(tx, u.Metadata.Name)
	return err
}

func (s *Server) createUser(ctx context.Context, r resource.Resource) error {
	return s.login.CreateUser(ctx, callerOf(ctx).actor, *r.(*resource.User), nil)
}

// updateUser ends the certificates of a user whose roles or logins changed:
// they say what does not hold any more.
func (s *Server) updateUser(ctx context.Context, r resource.Resource, revision string) error {
	u := r.(*resource.User)
	var old resource.User
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		old, err = s.login.GetUser(tx, u.Metadata.Name)
		return err
	})
	if err != nil {
		return err
	}
	if revision == "" {
		revision = u.Metadata.Revision
	}
	if revision == "" {
		revision = old.Metadata.Revision
	}
	return s.login.UpdateUser(ctx, callerOf(ctx).actor, *u, revision, func(tx *store.Tx) error {
		// What was read is what is replaced only where the revisions say so.
		if revision == old.Metadata.Revision && reflect.DeepEqual(old.Spec.Roles, u.Spec.Roles) && reflect.DeepEqual(old.Spec.Traits, u.Spec.Traits) {
			return nil
		}
		return s.endUser(tx, u.Metadata.Name, "the user's roles or logins changed")
	})
}

func (s *Server) deleteUser(ctx context.Context, name string) error {
	actor := callerOf(ctx).actor
	return s.login.DeleteUser(ctx, actor, name, func(tx *store.Tx) error {
		if err := s.devices.Disown(tx, actor, name, s.endDevice("the device's owner was removed")); err != nil {
			return err
		}
		return s.endUser(tx, name, "the user was removed")
	})
}

func (s *Server) endUser(tx *store.Tx, name, why string) error {
	_, err := s.ca.RevokeSubject(tx, ca.SubjectUser, name, why)
	return err
}

// usersExist is for owners of devices.
func (s *Server) usersExist(tx *store.Tx, names []string) error {
	for _, n := range names {
		_, err := s.login.GetUser(tx, n)
		if isNotFound(err) {
			return api.Refuse(connect.CodeInvalidArgument, "spec.owners: user %.64q does not exist", n).WithHint("dtctl users ls shows the users")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) rolesExist(tx *store.Tx, names []string) error {
	if len(names) > maxRoles {
		return api.Refuse(connect.CodeInvalidArgument, "at most %d roles, got %d", maxRoles, len(names))
	}
	state, err := s.policyState(tx)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, ok := state.Roles[n]; !ok {
			return api.Refuse(connect.CodeInvalidArgument, "role %.64q does not exist", n).WithHint("dtctl get roles shows the roles")
		}
	}
	return nil
}

// roleUnused refuses to remove a role that somebody has: their certificates
// would name a role that nobody can read any more.
func (s *Server) roleUnused(kind, name string) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		if kind != resource.KindRole {
			return nil
		}
		users, err := s.login.ListUsers(tx)
		if err != nil {
			return err
		}
		for _, u := range users {
			for _, r := range u.Spec.Roles {
				if r == name {
					return api.Refuse(connect.CodeFailedPrecondition, "role %q is held by user %q", name, u.Metadata.Name).
						WithHint("Take it away first: dtctl edit user/%s", u.Metadata.Name)
				}
			}
		}
		return nil
	}
}

// Join tokens, nodes, authorities.

func (s *Server) listTokens(ctx context.Context) (out []resource.Resource, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		out, err = s.nodes.listTokens(tx)
		return err
	})
	return out, err
}

func (s *Server) getToken(ctx context.Context, name string) (resource.Resource, error) {
	return pick(ctx, s.listTokens, resource.KindToken, name)
}

func (s *Server) deleteToken(ctx context.Context, token string) error {
	return s.db.Write(ctx, func(tx *store.Tx) error {
		name, err := s.nodes.findToken(tx, token)
		if err != nil {
			return err
		}
		_, err = s.audit.Record(tx, event.Event{
			Type: event.JoinTokenDelete, Success: true, User: callerOf(ctx).actor, Kind: resource.KindToken, Name: name,
		})
		if err != nil {
			return err
		}
		return s.nodes.removeToken(tx, name)
	})
}

func (s *Server) pruneNodes(ctx context.Context) error {
	return s.db.Write(ctx, s.nodes.prune)
}

func (s *Server) listNodes(ctx context.Context) (out []resource.Resource, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := s.nodes.list(tx)
		for _, n := range all {
			out = append(out, n)
		}
		return errors.Join(err, s.markBehind(tx, all...))
	})
	return out, err
}

func (s *Server) getNode(ctx context.Context, name string) (r resource.Resource, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		n, err := s.nodes.lookup(tx, name)
		r = n
		if err != nil {
			return err
		}
		return s.markBehind(tx, n)
	})
	return r, err
}

func (s *Server) deleteNode(ctx context.Context, name string) error {
	return s.db.Write(ctx, func(tx *store.Tx) error {
		n, err := s.nodes.lookup(tx, name)
		if err != nil {
			return err
		}
		_, err = s.audit.Record(tx, event.Event{
			Type: event.NodeDelete, Success: true, User: callerOf(ctx).actor, Kind: resource.KindNode,
			Name: name, NodeID: n.Metadata.Name, NodeName: n.Spec.Hostname,
		})
		if err != nil {
			return err
		}
		if _, err := s.ca.RevokeSubject(tx, ca.SubjectNode, n.Metadata.Name, "the node was removed"); err != nil {
			return err
		}
		return s.nodes.remove(tx, n.Metadata.Name)
	})
}

func (s *Server) listAuthorities(context.Context) ([]resource.Resource, error) {
	var out []resource.Resource
	for _, kind := range []string{"host", "tls", "user"} {
		text, err := s.ca.Export(kind)
		if err != nil {
			return nil, err
		}
		a := &resource.CertAuthority{Header: resource.NewHeader(resource.KindCertAuthority, kind)}
		a.Spec = resource.CertAuthoritySpec{Type: kind, ClusterName: s.ca.Cluster(), PublicKeys: publicKeys(kind, text)}
		out = append(out, a)
	}
	return out, nil
}

// publicKeys are one entry a key: the PEM as a whole, or the lines without
// what only known_hosts wants before them.
func publicKeys(kind, text string) []string {
	if kind == "tls" {
		return []string{text}
	}
	var keys []string
	for line := range strings.Lines(text) {
		keys = append(keys, strings.TrimPrefix(strings.TrimSpace(line), "@cert-authority * "))
	}
	return keys
}

func (s *Server) getAuthority(ctx context.Context, name string) (resource.Resource, error) {
	return pick(ctx, s.listAuthorities, resource.KindCertAuthority, name)
}

// pick finds the one named name in a short list.
func pick(ctx context.Context, list func(context.Context) ([]resource.Resource, error), kind, name string) (resource.Resource, error) {
	all, err := list(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Head().Metadata.Name == name {
			return r, nil
		}
	}
	return nil, api.Refuse(connect.CodeNotFound, "%s %.128q not found", kind, name).
		WithHint("dtctl get %s shows those that there are", kind)
}
