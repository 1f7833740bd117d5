package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

// now is when all tests happen.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// cluster is a dtauthd's socket with the test's own answers behind the real
// wire. Resources are kept; what else is asked is noted, and answered with
// answers[the method's name] or fault.
type cluster struct {
	dataDir string

	mu        sync.Mutex
	resources []resource.Resource
	revision  int
	requests  []proto.Message
	answers   map[string]proto.Message
	// evaluations are the answers of EvaluateDevices.
	evaluations []*dtv1.EvaluateDevicesResponse
	fault       error
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	// Not t.TempDir: a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "dtctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &cluster{dataDir: dir, answers: map[string]proto.Message{}}
	refusals := connect.WithInterceptors(connect.UnaryInterceptorFunc(
		func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
				resp, err := next(ctx, req)
				if err != nil {
					wire, _ := api.ToWire(err)
					return nil, wire
				}
				return resp, nil
			}
		}))
	mux := http.NewServeMux()
	mux.Handle(dtv1connect.NewResourceServiceHandler(resourceAPI{c: c}, refusals))
	mux.Handle(dtv1connect.NewAdminServiceHandler(adminAPI{c: c}, refusals))
	mux.Handle(dtv1connect.NewDeviceServiceHandler(deviceAPI{c: c}, refusals))
	listener, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return c
}

// result is what a run left.
type result struct {
	status      int
	out, errors string
}

// run runs dtctl on the cluster's socket.
func (c *cluster) run(t *testing.T, args ...string) result {
	t.Helper()
	return c.runWith(t, &cli.Env{}, args...)
}

func (c *cluster) runWith(t *testing.T, env *cli.Env, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	env.Args = args
	env.Stdout = &out
	if env.Stderr == nil {
		env.Stderr = &errs
	}
	variable := env.Getenv
	env.Getenv = func(name string) string {
		if name == "DTCTL_DATA_DIR" {
			return c.dataDir
		}
		if variable != nil {
			return variable(name)
		}
		return ""
	}
	env.Now = func() time.Time { return now }
	env.Location = time.FixedZone("CET", 3600)
	status := cli.Run(t.Context(), env, newRoot)
	return result{status, out.String(), errs.String()}
}

// good runs what must succeed and gives its output.
func (c *cluster) good(t *testing.T, args ...string) string {
	t.Helper()
	r := c.run(t, args...)
	if r.status != 0 || r.errors != "" {
		t.Fatalf("dtctl %s: status %d, stderr %s", strings.Join(args, " "), r.status, r.errors)
	}
	return r.out
}

// prints checks the output of what must succeed.
func (c *cluster) prints(t *testing.T, want string, args ...string) {
	t.Helper()
	if diff := cmp.Diff(want, c.good(t, args...)); diff != "" {
		t.Errorf("dtctl %s: %s", strings.Join(args, " "), diff)
	}
}

// asked checks the last request.
func (c *cluster) asked(t *testing.T, want proto.Message) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) == 0 {
		t.Fatal("nothing was asked")
	}
	if diff := cmp.Diff(want, c.requests[len(c.requests)-1], protocmp.Transform()); diff != "" {
		t.Errorf("asked: %s", diff)
	}
}

// put stores resources as they are, with a new revision.
func (c *cluster) put(t *testing.T, documents string) {
	t.Helper()
	all, err := resource.ParseYAML([]byte(documents))
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range all {
		c.store(r)
	}
}

func (c *cluster) store(r resource.Resource) (created bool) {
	c.revision++
	r.Head().Metadata.Revision = fmt.Sprintf("r%d", c.revision)
	if i := c.find(r.Head().Kind, r.Head().Metadata.Name); i >= 0 {
		c.resources[i] = r
		return false
	}
	c.resources = append(c.resources, r)
	return true
}

func (c *cluster) find(kind, name string) int {
	return slices.IndexFunc(c.resources, func(r resource.Resource) bool {
		if r.Head().Kind != kind {
			return false
		}
		d, ok := r.(*resource.Device)
		return r.Head().Metadata.Name == name || ok && d.Spec.AssetTag == name
	})
}

// get gives a stored resource; nil where there is none.
func (c *cluster) get(kind, name string) resource.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.find(kind, name); i >= 0 {
		return c.resources[i]
	}
	return nil
}

func (c *cluster) note(m proto.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, m)
	return c.fault
}

// answer notes a request and gives the test's answer of its type.
func answer[Req, Resp any](c *cluster, method string, req *connect.Request[Req]) (*connect.Response[Resp], error) {
	if err := c.note(req.Any().(proto.Message)); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if resp, ok := any(c.answers[method]).(*Resp); ok {
		return connect.NewResponse(resp), nil
	}
	return connect.NewResponse(new(Resp)), nil
}

type adminAPI struct {
	dtv1connect.UnimplementedAdminServiceHandler
	c *cluster
}

func (a adminAPI) AddUser(_ context.Context, r *connect.Request[dtv1.AddUserRequest]) (*connect.Response[dtv1.Invite], error) {
	return answer[dtv1.AddUserRequest, dtv1.Invite](a.c, "AddUser", r)
}
func (a adminAPI) ResetUser(_ context.Context, r *connect.Request[dtv1.ResetUserRequest]) (*connect.Response[dtv1.Invite], error) {
	return answer[dtv1.ResetUserRequest, dtv1.Invite](a.c, "ResetUser", r)
}
func (a adminAPI) AddToken(_ context.Context, r *connect.Request[dtv1.AddTokenRequest]) (*connect.Response[dtv1.JoinToken], error) {
	return answer[dtv1.AddTokenRequest, dtv1.JoinToken](a.c, "AddToken", r)
}
func (a adminAPI) ListNodes(_ context.Context, r *connect.Request[dtv1.ListNodesRequest]) (*connect.Response[dtv1.ListNodesResponse], error) {
	return answer[dtv1.ListNodesRequest, dtv1.ListNodesResponse](a.c, "ListNodes", r)
}
func (a adminAPI) ListAudit(_ context.Context, r *connect.Request[dtv1.ListAuditRequest]) (*connect.Response[dtv1.ListAuditResponse], error) {
	return answer[dtv1.ListAuditRequest, dtv1.ListAuditResponse](a.c, "ListAudit", r)
}
func (a adminAPI) VerifyAudit(_ context.Context, r *connect.Request[dtv1.VerifyAuditRequest]) (*connect.Response[dtv1.VerifyAuditResponse], error) {
	return answer[dtv1.VerifyAuditRequest, dtv1.VerifyAuditResponse](a.c, "VerifyAudit", r)
}
func (a adminAPI) Explain(_ context.Context, r *connect.Request[dtv1.ExplainRequest]) (*connect.Response[dtv1.ExplainResponse], error) {
	return answer[dtv1.ExplainRequest, dtv1.ExplainResponse](a.c, "Explain", r)
}
func (a adminAPI) ExportAuthority(_ context.Context, r *connect.Request[dtv1.ExportAuthorityRequest]) (*connect.Response[dtv1.ExportAuthorityResponse], error) {
	return answer[dtv1.ExportAuthorityRequest, dtv1.ExportAuthorityResponse](a.c, "ExportAuthority", r)
}
func (a adminAPI) ExportKRL(_ context.Context, r *connect.Request[dtv1.ExportKRLRequest]) (*connect.Response[dtv1.ExportKRLResponse], error) {
	return answer[dtv1.ExportKRLRequest, dtv1.ExportKRLResponse](a.c, "ExportKRL", r)
}
func (a adminAPI) Status(_ context.Context, r *connect.Request[dtv1.StatusRequest]) (*connect.Response[dtv1.StatusResponse], error) {
	return answer[dtv1.StatusRequest, dtv1.StatusResponse](a.c, "Status", r)
}

type deviceAPI struct {
	dtv1connect.UnimplementedDeviceServiceHandler
	c *cluster
}

func (d deviceAPI) AddDevice(_ context.Context, r *connect.Request[dtv1.AddDeviceRequest]) (*connect.Response[dtv1.AddDeviceResponse], error) {
	return answer[dtv1.AddDeviceRequest, dtv1.AddDeviceResponse](d.c, "AddDevice", r)
}
func (d deviceAPI) RemoveDevice(_ context.Context, r *connect.Request[dtv1.RemoveDeviceRequest]) (*connect.Response[dtv1.RemoveDeviceResponse], error) {
	return answer[dtv1.RemoveDeviceRequest, dtv1.RemoveDeviceResponse](d.c, "RemoveDevice", r)
}
func (d deviceAPI) CreateEnrollToken(_ context.Context, r *connect.Request[dtv1.CreateEnrollTokenRequest]) (*connect.Response[dtv1.EnrollToken], error) {
	return answer[dtv1.CreateEnrollTokenRequest, dtv1.EnrollToken](d.c, "CreateEnrollToken", r)
}

// ListDevices gives what is kept, two at a time, by asset tag; it filters by
// the prefix alone.
func (d deviceAPI) ListDevices(_ context.Context, r *connect.Request[dtv1.ListDevicesRequest]) (*connect.Response[dtv1.ListDevicesResponse], error) {
	if err := d.c.note(proto.CloneOf(r.Msg)); err != nil {
		return nil, err
	}
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	byTag := map[string]*resource.Device{}
	for _, found := range d.c.resources {
		if one, ok := found.(*resource.Device); ok && strings.HasPrefix(one.Spec.AssetTag, r.Msg.GetAssetTagPrefix()) {
			byTag[one.Spec.AssetTag] = one
		}
	}
	out, last := &dtv1.ListDevicesResponse{}, ""
	for _, tag := range slices.Sorted(maps.Keys(byTag)) {
		if tag <= r.Msg.GetPageToken() {
			continue
		}
		if len(out.Devices) == min(2, int(r.Msg.GetPageSize())) {
			out.NextPageToken = last
			return connect.NewResponse(out), nil
		}
		doc, err := resource.MarshalJSON(byTag[tag])
		if err != nil {
			return nil, err
		}
		out.Devices, last = append(out.Devices, doc), tag
	}
	return connect.NewResponse(out), nil
}

// CreateDevices keeps them unless a tag is kept already.
func (d deviceAPI) CreateDevices(_ context.Context, stream *connect.ClientStream[dtv1.CreateDevicesRequest]) (*connect.Response[dtv1.CreateDevicesResponse], error) {
	out, replace := &dtv1.CreateDevicesResponse{}, false
	for stream.Receive() {
		if err := d.c.note(proto.CloneOf(stream.Msg())); err != nil {
			return nil, err
		}
		replace = replace || stream.Msg().GetReplace()
		for _, doc := range stream.Msg().GetDevices() {
			r, err := resource.ParseJSON(doc)
			if err != nil {
				return nil, err
			}
			tag := r.(*resource.Device).Spec.AssetTag
			switch {
			case d.c.get(resource.KindDevice, tag) == nil:
				d.c.mu.Lock()
				r.Head().Metadata.Name = fmt.Sprintf("9cdfc0ad-64b7-4d9c-8a9c-%012d", len(d.c.resources))
				d.c.store(r)
				d.c.mu.Unlock()
				out.Created++
			case replace:
				out.Updated++
			default:
				wire, _ := api.ToWire(api.Refuse(connect.CodeAlreadyExists, "document %d: device %s is there", out.Created+1, tag))
				return nil, wire
			}
		}
	}
	return connect.NewResponse(out), stream.Err()
}

// resourceAPI keeps resources with the rules of the real one.
type resourceAPI struct {
	dtv1connect.UnimplementedResourceServiceHandler
	c *cluster
}

func (a resourceAPI) GetResource(_ context.Context, r *connect.Request[dtv1.GetResourceRequest]) (*connect.Response[dtv1.GetResourceResponse], error) {
	if err := a.c.note(r.Msg); err != nil {
		return nil, err
	}
	found := a.c.get(r.Msg.GetKind(), r.Msg.GetName())
	if found == nil {
		return nil, api.Refuse(connect.CodeNotFound, "%s %q not found", r.Msg.GetKind(), r.Msg.GetName())
	}
	doc, err := resource.MarshalJSON(found)
	return connect.NewResponse(&dtv1.GetResourceResponse{Resource: doc}), err
}

func (a resourceAPI) ListResources(_ context.Context, r *connect.Request[dtv1.ListResourcesRequest]) (*connect.Response[dtv1.ListResourcesResponse], error) {
	if err := a.c.note(r.Msg); err != nil {
		return nil, err
	}
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	out := &dtv1.ListResourcesResponse{}
	for _, found := range a.c.resources {
		if found.Head().Kind == r.Msg.GetKind() {
			doc, err := resource.MarshalJSON(found)
			if err != nil {
				return nil, err
			}
			out.Resources = append(out.Resources, doc)
		}
	}
	return connect.NewResponse(out), nil
}

func (a resourceAPI) CreateResource(_ context.Context, r *connect.Request[dtv1.CreateResourceRequest]) (*connect.Response[dtv1.ResourceChanged], error) {
	if err := a.c.note(r.Msg); err != nil {
		return nil, err
	}
	doc, err := resource.ParseJSON(r.Msg.GetResource())
	if err != nil {
		return nil, err
	}
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	name := doc.Head().Metadata.Name
	if name == "held" {
		return nil, api.Refuse(connect.CodeFailedPrecondition, "%s %q is held by somebody", r.Msg.GetKind(), name)
	}
	if a.c.find(r.Msg.GetKind(), name) >= 0 {
		return nil, api.Refuse(connect.CodeAlreadyExists, "it exists")
	}
	return connect.NewResponse(&dtv1.ResourceChanged{Kind: r.Msg.GetKind(), Name: name, Created: a.c.store(doc)}), nil
}

func (a resourceAPI) UpdateResource(_ context.Context, r *connect.Request[dtv1.UpdateResourceRequest]) (*connect.Response[dtv1.ResourceChanged], error) {
	if err := a.c.note(r.Msg); err != nil {
		return nil, err
	}
	doc, err := resource.ParseJSON(r.Msg.GetResource())
	if err != nil {
		return nil, err
	}
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	name := doc.Head().Metadata.Name
	i := a.c.find(r.Msg.GetKind(), name)
	if want := r.Msg.GetRevision(); want != "" && (i < 0 || a.c.resources[i].Head().Metadata.Revision != want) {
		return nil, api.Refuse(connect.CodeAborted, "somebody else changed it meanwhile").WithHint("Edit it again.")
	}
	return connect.NewResponse(&dtv1.ResourceChanged{Kind: r.Msg.GetKind(), Name: name, Created: a.c.store(doc)}), nil
}

func (a resourceAPI) DeleteResource(_ context.Context, r *connect.Request[dtv1.DeleteResourceRequest]) (*connect.Response[dtv1.ResourceChanged], error) {
	if err := a.c.note(r.Msg); err != nil {
		return nil, err
	}
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	i := a.c.find(r.Msg.GetKind(), r.Msg.GetName())
	if i < 0 {
		return nil, api.Refuse(connect.CodeNotFound, "%s %q not found", r.Msg.GetKind(), r.Msg.GetName())
	}
	a.c.resources = slices.Delete(a.c.resources, i, i+1)
	return connect.NewResponse(&dtv1.ResourceChanged{}), nil
}
