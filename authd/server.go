package authd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit"
	"devicetrust/ca"
	"devicetrust/devices"
	"devicetrust/devices/mdm"
	"devicetrust/login"
	"devicetrust/policy/catalog"
	"devicetrust/store"
)

// Server is one dtauthd. Several may share one PostgreSQL; nothing that
// another one needs is kept here.
type Server struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	db      *store.DB
	audit   *audit.Log
	ca      *ca.CA
	login   *login.Service
	devices *devices.Inventory
	mdm     *mdm.Syncer
	catalog *catalog.Catalog
	nodes   nodes
	// refusals bounds the records that a caller's refused calls make, and
	// ceremonies those of a login's failed ceremonies.
	refusals, ceremonies failures
	// reported bounds what each node adds to the record.
	reported reported
	// follows bounds the streams of each node.
	follows follows
	// strangers bounds what callers who have shown nothing send at once.
	strangers shares
	// answers bounds what they fetch at once, where each has a copy.
	answers shares
	// bulk is held by the one call that registers many devices.
	bulk sync.Mutex

	tls     *serverTLS
	public  []string
	feed    *changeFeed
	krl     *krlMaker
	metrics *metrics
	// stopping ends the streams, which a drain would wait for in vain.
	stopping context.Context
}

// Run serves until ctx ends, then drains. reload asks for the TLS files to be
// read again. ready, where not nil, is called once every port answers, with
// the HTTPS address and the CA pins.
func Run(ctx context.Context, cfg Config, reload <-chan os.Signal, ready func(addr net.Addr, pins []string)) (err error) {
	if err := cfg.check(); err != nil {
		return err
	}
	dir, err := takeDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	db, err := store.Open(ctx, cfg.Storage, cfg.Log)
	if errors.Is(err, store.ErrAddress) {
		return wrong("--storage: %v", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", cfg.Listen, err)
	}
	defer listener.Close() // a second time, but for an early error

	s, err := open(ctx, cfg, db, listener.Addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.audit.Close()) }()
	return s.serve(ctx, listener, reload, ready)
}

// open wires the rooms together.
func open(ctx context.Context, cfg Config, db *store.DB, addr net.Addr) (*Server, error) {
	s := &Server{
		cfg: cfg, log: cfg.Log, now: cfg.Now, db: db,
		metrics:   newMetrics(),
		public:    cfg.publicAddresses(addr),
		strangers: shares{total: maxStrangersBytes, place: maxStrangersBytesPerPlace, site: maxStrangersBytesPerSite},
		answers:   shares{total: maxAnswersBytes, place: maxAnswersBytesPerPlace, site: maxAnswersBytesPerSite},
	}
	if err := s.nameCluster(ctx); err != nil {
		return nil, err
	}
	cfg = s.cfg
	keeper, err := ca.LoadKeeper(cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	s.audit = audit.Open(db, cfg.ClusterName, keeper.AuditKey(), cfg.Now)
	if err := s.audit.UseAnchor(filepath.Join(cfg.DataDir, "audit.anchor")); err != nil {
		return nil, err
	}
	if s.ca, err = ca.Open(ctx, db, s.audit, keeper, cfg.ClusterName, cfg.Now); err != nil {
		return nil, err
	}
	s.catalog = catalog.Open(db, s.audit, cfg.Now)
	if err := s.catalog.Init(ctx); err != nil {
		return nil, err
	}
	s.login = login.New(db, s.audit, cfg.Now)
	s.login.CheckRoles = s.rolesExist
	s.devices = devices.New(db, s.audit, s.ca.Cluster(), cfg.Now)
	s.devices.UsersExist = s.usersExist
	s.devices.EndFor = func(tx *store.Tx, id, user string) error {
		_, err := s.ca.RevokeDeviceOf(tx, id, user, "the user is not an owner of the device any more")
		return err
	}
	s.mdm, err = mdm.New(cfg.MDM, mdm.Deps{
		DB: db, Inventory: s.devices, Clock: mdm.Clock{Now: cfg.Now}, Log: cfg.Log,
		Ended: s.endDevice("device management does not list the device any more"),
	})
	if err != nil {
		return nil, err
	}
	s.nodes = nodes{now: cfg.Now}
	s.tls = &serverTLS{
		ca: s.ca, now: cfg.Now, certFile: cfg.TLSCert, keyFile: cfg.TLSKey,
		names: serverNames(s.public, s.ca.Cluster()),
	}
	if err := s.tls.reload(); err != nil {
		return nil, err
	}
	s.feed, s.krl = newChangeFeed(s), newKRLMaker(s)
	s.metrics.watch(s.feed)
	return s, s.feed.refresh(ctx)
}

// nameCluster settles the cluster's name where the configuration has none.
func (s *Server) nameCluster(ctx context.Context) error {
	if s.cfg.ClusterName != "" {
		return nil
	}
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		s.cfg.ClusterName, err = ca.StoredCluster(tx)
		return err
	})
	if err != nil || s.cfg.ClusterName != "" {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("the host has no name: give --cluster-name: %w", err)
	}
	s.cfg.ClusterName = strings.ToLower(name)
	return nil
}

// serve answers on all ports until ctx ends.
func (s *Server) serve(ctx context.Context, listener net.Listener, reload <-chan os.Signal, ready func(net.Addr, []string)) error {
	streams, endStreams := context.WithCancel(context.Background())
	defer endStreams()
	s.stopping = streams

	mux, err := s.handler()
	if err != nil {
		return err
	}
	socket, err := listenSocket(ctx, filepath.Join(s.cfg.DataDir, "admin.sock"))
	if err != nil {
		return err
	}
	servers := []*serving{
		{name: "https", l: newBoundedListener(listener), srv: s.httpServer(mux), tls: true},
		{name: "admin", l: socket, srv: s.httpServer(mux)},
	}
	servers[0].srv.TLSConfig = s.tls.config()
	servers[1].srv.ConnContext = socketPeer
	if s.cfg.DiagListen != "" && s.cfg.DiagListen != "off" {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.DiagListen)
		if err != nil {
			return errors.Join(fmt.Errorf("cannot listen on %s: %w", s.cfg.DiagListen, err), socket.Close())
		}
		servers = append(servers, &serving{name: "diag", l: l, srv: s.httpServer(s.diagHandler())})
	}
	return s.runAll(ctx, servers, reload, endStreams, func() {
		for _, srv := range servers {
			s.log.Info("serving", "port", srv.name, "addr", srv.l.Addr().String())
		}
		if ready != nil {
			ready(listener.Addr(), s.tls.pins())
		}
	})
}

type serving struct {
	name string
	l    net.Listener
	srv  *http.Server
	tls  bool
}

func (s *Server) runAll(ctx context.Context, servers []*serving, reload <-chan os.Signal, endStreams func(), ready func()) error {
	background, stopBackground := context.WithCancel(ctx)
	defer stopBackground()
	var wg sync.WaitGroup
	wg.Go(func() { s.feed.run(background, s.db.Follow(background)) })
	wg.Go(func() { s.prune(background) })
	wg.Go(func() { s.mdm.Schedule(background) })

	failed := make(chan error, len(servers))
	for _, srv := range servers {
		wg.Go(func() {
			var err error
			if srv.tls {
				err = srv.srv.ServeTLS(srv.l, "", "")
			} else {
				err = srv.srv.Serve(srv.l)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", srv.name, err)
			}
		})
	}
	ready()

	var err error
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		case <-reload:
			if rerr := s.tls.reload(); rerr != nil {
				s.log.Error("reload failed; the old certificate stays", "error", rerr)
			} else {
				s.log.Info("reloaded")
			}
		}
	}
	s.log.Info("stopping")
	endStreams()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	for _, srv := range servers {
		if serr := srv.srv.Shutdown(drain); serr != nil {
			s.log.Warn("a connection did not end in time", "port", srv.name, "error", serr)
			err = errors.Join(err, srv.srv.Close())
		}
	}
	stopBackground()
	wg.Wait()
	return err
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    32 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: takeTimeout},
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// handler is everything that the HTTPS port and the admin socket answer.
func (s *Server) handler() (http.Handler, error) {
	declared, err := declaredAccess()
	if err != nil {
		return nil, err
	}
	opts := connect.WithHandlerOptions(
		connect.WithReadMaxBytes(devices.MaxMessage),
		// Nobody sends us anything compressed: a megabyte of gzip can be a
		// gigabyte of zeros, which connect reads to the end to tell its size.
		connect.WithCompression("gzip", nil, nil),
		connect.WithInterceptors(&gate{s: s, declared: declared}),
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
			s.log.Error("a handler panicked", "procedure", spec.Procedure, "cause", cause, "stack", string(debug.Stack()))
			wire, _ := api.ToWire(errors.New("panic"))
			return wire
		}),
	)
	mux := http.NewServeMux()
	mux.Handle(dtv1connect.NewLoginServiceHandler(loginService{s}, opts))
	mux.Handle(dtv1connect.NewDeviceServiceHandler(deviceService{s}, opts))
	mux.Handle(dtv1connect.NewNodeServiceHandler(nodeService{s}, opts))
	mux.Handle(dtv1connect.NewResourceServiceHandler(resourceService{s}, opts))
	mux.Handle(dtv1connect.NewAdminServiceHandler(adminService{s}, opts))
	mux.HandleFunc("GET /v1/webapi/find", s.find)
	mux.HandleFunc("GET /v1/krl", s.serveKRL(false))
	mux.HandleFunc("GET /v1/krl.sig", s.serveKRL(true))
	mux.HandleFunc("GET /web/invite", s.invite)
	return withPeer(s.withBounds(mux)), nil
}

// toWire turns a handler's error into what the caller may see, and logs what
// it may not.
func (s *Server) toWire(procedure string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return connect.NewError(connect.CodeCanceled, err)
	}
	if store.IsFull(err) {
		s.log.Error("the store's disk is full", "procedure", procedure, "error", err)
		err = api.Refuse(connect.CodeUnavailable, "nothing was done: the cluster cannot record it, its disk is full").
			WithHint("Make room on the disk of dtauthd's storage; nothing needs to be repaired")
	}
	if store.IsBadText(err) {
		err = api.Refuse(connect.CodeInvalidArgument, "a text in the request holds a NUL, which no name does")
	}
	wire, known := api.ToWire(err)
	if !known {
		s.log.Error("internal error", "procedure", procedure, "error", err)
	}
	return wire
}

// prune drops what has expired and nobody asks for any more.
func (s *Server) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		for _, p := range []func(context.Context) error{s.ca.Prune, s.catalog.Prune, s.pruneNodes} {
			if err := p(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("expired records could not be dropped", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
