package mdm

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/devices"
	"devicetrust/resource"
	"devicetrust/store"
)

// Syncer takes sources over: on a schedule, and when asked. Several may share
// one store.
type Syncer struct {
	db        *store.DB
	inventory *devices.Inventory
	clock     Clock
	log       *slog.Logger
	// ended ends in a transaction what a deleted device gave.
	ended   func(tx *store.Tx, id string) error
	sources []configured
}

type configured struct {
	Config
	Source
}

// Deps are what a Syncer works with.
type Deps struct {
	DB        *store.DB
	Inventory *devices.Inventory
	Clock     Clock
	Log       *slog.Logger
	// Ended ends in a transaction what a deleted device gave.
	Ended func(tx *store.Tx, id string) error
}

// New opens sources that Check has completed.
func New(all []Config, d Deps) (*Syncer, error) {
	s := &Syncer{db: d.DB, inventory: d.Inventory, clock: d.Clock, log: d.Log, ended: d.Ended}
	for _, cfg := range all {
		source, err := kinds()[cfg.Type].open(cfg, d.Clock)
		if err != nil {
			return nil, err
		}
		s.sources = append(s.sources, configured{cfg, source})
	}
	return s, nil
}

// Names are those of the sources, as configured.
func (s *Syncer) Names() []string {
	var names []string
	for _, c := range s.sources {
		names = append(names, c.Name)
	}
	return names
}

// Sync takes one source over, now. It is refused where there is no such
// source (CodeNotFound), or another run reads it (CodeAborted). A run that is
// not full takes what changed since the last one.
func (s *Syncer) Sync(ctx context.Context, actor, name string, full bool, progress func(devices.SyncCounts)) (devices.SyncCounts, error) {
	for _, c := range s.sources {
		if c.Name == name {
			return s.sync(ctx, actor, c, full, progress)
		}
	}
	return devices.SyncCounts{}, api.Refuse(connect.CodeNotFound, "there is no source %.64q", name)
}

func (s *Syncer) sync(ctx context.Context, actor string, c configured, full bool, progress func(devices.SyncCounts)) (devices.SyncCounts, error) {
	r, last, err := s.begin(ctx, c)
	if err != nil {
		return devices.SyncCounts{}, err
	}
	var since time.Time
	if !full && !last.IsZero() {
		since = last.Add(-overlap)
	}
	counts, err := s.inventory.Sync(ctx, actor, devices.SyncPlan{
		Source: resource.DeviceSource{Name: c.Name, Origin: c.Type}, Full: full,
		DeleteMissing: c.OnMissing == onMissingDelete, MaxDeletePercent: *c.MaxDeletePercent, LastFull: store.Time(r.fullAt),
		Stands: r.stands, Ended: s.ended, Progress: progress,
	}, c.Pages(ctx, since))
	// What was interrupted has neither succeeded nor failed.
	if ctx.Err() != nil {
		return counts, firstError(err, r.release(ctx))
	}
	return counts, firstError(err, r.finish(ctx, full, err == nil))
}

// firstError is err where there is one, else the other.
func firstError(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// Schedule takes over what is due until ctx ends. No source waits for another:
// one that answers slowly can be read for hours.
func (s *Syncer) Schedule(ctx context.Context) {
	var wg sync.WaitGroup
	for _, c := range s.sources {
		wg.Go(func() { s.schedule(ctx, c) })
	}
	wg.Wait()
}

func (s *Syncer) schedule(ctx context.Context, c configured) {
	for ctx.Err() == nil {
		s.scheduled(ctx, c)
		// Not all clusters and replicas ask at the same moment.
		if s.clock.wait(ctx, look/2+rand.N(look)) != nil {
			return
		}
	}
}

func (s *Syncer) scheduled(ctx context.Context, c configured) {
	full, due, err := s.due(ctx, c)
	if err == nil && !due {
		return
	}
	log := s.log.With("source", c.Name, "full", full)
	var counts devices.SyncCounts
	if err == nil {
		counts, err = s.sync(ctx, "mdm:"+c.Name, c, full, nil)
	}
	if ctx.Err() != nil {
		return
	}
	if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeAborted {
		log.Debug("another run reads the source")
		return
	}
	if err != nil {
		log.Error("devices were not synchronized; it is tried again later", "error", err, "counts", counts.String())
		return
	}
	log.Info("devices were synchronized", "counts", counts.String())
}
