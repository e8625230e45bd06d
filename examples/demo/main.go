// Command demo runs three go-micro services in one process, each with a broker
// of its own, and sends orders through them:
//
//	orders --orders.created--> payments --payments.taken--> shipping --shipping.sent--> orders
//
// One order in a hundred fails, one in a thousand makes a handler panic, and a
// few fail for good and end as dead letters. At the end it counts the order
// numbers that went in and those that came out.
//
//	go run ./examples/demo           until Ctrl-C
//	go run ./examples/demo -n 1000   that many; exits 0 if every order arrived
//
// The picture of a trace in the README is drawn by
//
//	go run ./examples/demo -n 1000 -trace-svg dashboards/trace.svg
//
// It needs nothing but Go: the nats-server is embedded. With NATS_URL it uses
// that one, and makes streams there that carry its mark; it refuses to touch
// others. With OTEL_EXPORTER_OTLP_ENDPOINT it also exports its spans there, by
// OTLP over HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go-micro.dev/v5/logger"

	_ "go-micro-jetstream/examples/internal/microtls"
)

const (
	defaultMetricsAddr = "127.0.0.1:9464" // the port of OpenTelemetry's Prometheus exporters
	steadyRate         = 50               // orders per second, to watch
	quickRate          = 500              // with -n, to be done soon
	patience           = time.Minute      // beyond the time that publishing takes
)

// settings are what the flags say.
type settings struct {
	orders      int // 0: until stopped
	rate        float64
	timeout     time.Duration
	traceSVG    string // file; empty: none
	metricsAddr string
	fixedAddr   bool // the user asked for this address and no other
	verbose     bool
}

func main() {
	cfg := parseFlags()
	// The embedded server, go-micro and the broker are quiet unless asked: the
	// failures they would report are the demo's own.
	level, out := logger.ErrorLevel, io.Discard
	if cfg.verbose {
		level, out = logger.InfoLevel, io.Writer(os.Stderr)
	}
	_ = logger.DefaultLogger.Init(logger.WithLevel(level), logger.WithOutput(out))

	if err := run(cfg, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func parseFlags() settings {
	var cfg settings
	flag.IntVar(&cfg.orders, "n", 0, "publish this many `orders` and exit; 0 goes on until Ctrl-C")
	flag.Float64Var(&cfg.rate, "rate", 0, "`orders` per second (default 50, with -n 500)")
	flag.DurationVar(&cfg.timeout, "timeout", 0, "with -n, bounds the whole run (default 1m more than publishing takes);\nwithout, the wait for orders on their way after Ctrl-C (default 1m)")
	flag.StringVar(&cfg.metricsAddr, "metrics-addr", defaultMetricsAddr, "`address` that serves /metrics")
	flag.StringVar(&cfg.traceSVG, "trace-svg", "", "also draw the trace that is shown, as an SVG in this `file`")
	flag.BoolVar(&cfg.verbose, "v", false, "show the log of go-micro and the brokers on stderr")
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { cfg.fixedAddr = cfg.fixedAddr || f.Name == "metrics-addr" })
	if flag.NArg() > 0 || cfg.orders < 0 || cfg.rate < 0 || cfg.timeout < 0 {
		fmt.Fprintln(flag.CommandLine.Output(), "demo: numbers must not be negative, and there are no arguments but flags")
		flag.Usage()
		os.Exit(2)
	}
	if cfg.rate == 0 {
		cfg.rate = steadyRate
		if cfg.orders > 0 {
			cfg.rate = quickRate
		}
	}
	if cfg.timeout == 0 {
		cfg.timeout = patience + time.Duration(float64(cfg.orders)/cfg.rate*float64(time.Second))
	}
	return cfg
}

var (
	errStopped = errors.New("stopped before all orders had arrived")
	errTimeout = errors.New("timed out before all orders were published and had arrived")
	errCount   = errors.New("the count does not hold")
)

// run is the demo from the server's start to its end. It returns nil if every
// order is accounted for.
func run(cfg settings, out io.Writer) (err error) {
	began := time.Now()
	// The first signal stops the publishing, the second one everything.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	publishing, stopPublishing := context.WithCancel(context.Background())
	defer stopPublishing()
	running, giveUp := context.WithCancelCause(context.Background())
	defer giveUp(nil)

	nats, err := openServer()
	if err != nil {
		return err
	}
	defer nats.close()
	obs, err := newObservability(cfg)
	if err != nil {
		return err
	}
	defer obs.close()
	books := newLedger()
	notices := make(chan string, 16)
	shop, err := openShop(nats.url, obs, books, observer(notices, giveUp))
	if err != nil {
		return err
	}
	closeShop := onceOf(shop.close)
	defer func() { _ = closeShop() }()

	introduce(out, cfg, nats, obs)
	live := newProgress(out, began, func() row { return sample(books, obs.registry) })
	arrived := make(chan error, 1)
	go func() {
		shop.customers(publishing, cfg.orders, cfg.rate, notices)
		arrived <- books.await(running)
	}()
	limit := func() { time.AfterFunc(cfg.timeout, func() { giveUp(errTimeout) }) }
	if cfg.orders > 0 {
		limit()
	}
	var drawErr error
	show := func(trace *tree) {
		live.block(trace.String())
		if cfg.traceSVG != "" {
			drawErr = os.WriteFile(cfg.traceSVG, []byte(trace.waterfall()), 0o644)
		}
	}
	gaveUp, stopped := running.Done(), false
	for done := false; !done; {
		select {
		case err = <-arrived:
			done = true
		case <-live.tick():
			live.update()
		case trace := <-obs.spans.picked:
			show(trace)
		case text := <-notices:
			live.note(text)
		case <-gaveUp:
			stopPublishing() // and await returns the reason
			gaveUp = nil
		case <-signals:
			if stopped {
				giveUp(errStopped)
				continue
			}
			stopped = true
			stopPublishing()
			if n := books.soFar().missing; n > 0 {
				live.note(fmt.Sprintf("Stopping; orders on their way: %d. Ctrl-C again does not wait for them.", n))
			}
			if cfg.orders == 0 {
				limit()
			}
		}
	}

	// Gauges end with the subscriptions. Counters are final only after them.
	pending := live.read().pending
	if closeErr := closeShop(); err == nil {
		err = closeErr
	}
	live.finish(pending)
	if trace := obs.spans.fallback(); trace != nil {
		show(trace)
	}
	sum := books.summary()
	fmt.Fprint(out, sum.String(live.last, time.Since(began)))
	if err == nil && !sum.holds() {
		err = errCount
	}
	return errors.Join(err, drawErr)
}

// onceOf makes a function that runs once and remembers its error.
func onceOf(f func() error) func() error {
	var done bool
	var err error
	return func() error {
		if !done {
			done, err = true, f()
		}
		return err
	}
}

// introduce says where everything is.
func introduce(out io.Writer, cfg settings, nats *natsServer, obs *observability) {
	how := fmt.Sprintf("%g a second until Ctrl-C", cfg.rate)
	if cfg.orders > 0 {
		how = fmt.Sprintf("%d at %g a second", cfg.orders, cfg.rate)
	}
	fmt.Fprintf(out, `Three go-micro services on JetStream:
  orders --orders.created--> payments --payments.taken--> shipping --shipping.sent--> orders

  server    %s
  metrics   %s
  traces    %s
  orders    %s
  failures  1 in 100: payment fails once (1 in 5 of them: shipping fails for good); 1 in 1000: a panic
`, nats.describe, obs.describeMetrics, obs.describeTraces, how)
}
