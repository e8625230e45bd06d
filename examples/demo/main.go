// Command demo runs three go-micro services in one process, each with a broker
// of its own, and sends orders through them:
//
//	orders --orders.created--> payments --payments.taken--> shipping --shipping.sent--> orders
//
// One order in a hundred fails, one in a thousand makes a handler panic, and a few
// fail for good and become dead letters. At the end, the demo compares the orders
// that went in with those that came out.
//
//	go run ./examples/demo           runs until Ctrl-C
//	go run ./examples/demo -n 1000   publishes 1000 orders; exits 0 if all arrived
//
// This draws the picture of a trace in the README:
//
//	go run ./examples/demo -n 1000 -trace-svg dashboards/trace.svg
//
// The demo needs nothing but Go, because it embeds a nats-server. If NATS_URL is set,
// it uses that server instead. There it creates streams that carry its mark, and it
// refuses to touch any others. If OTEL_EXPORTER_OTLP_ENDPOINT is set, it exports its
// spans to that address, with OTLP over HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"go-micro.dev/v5/logger"

	_ "go-micro-jetstream/examples/microtls"
)

const (
	defaultMetricsAddr = "127.0.0.1:9464" // the port of OpenTelemetry's Prometheus exporters
	steadyRate         = 50               // orders per second without -n: slow enough to watch
	quickRate          = 500              // orders per second with -n: done soon
	patience           = time.Minute      // the default wait for orders after the last publish
)

// settings are the values of the flags.
type settings struct {
	orders      int           // 0: publish until stopped
	rate        float64       // orders per second
	timeout     time.Duration // see the flag
	traceSVG    string        // name of the file; empty: no picture
	metricsAddr string
	fixedAddr   bool // the user asked for metricsAddr, so no other address will do
	verbose     bool
}

func main() {
	cfg := parseFlags()
	// go-micro and the brokers do not log by default, because most of the failures that
	// they would report are provoked by the demo.
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
	flag.DurationVar(&cfg.timeout, "timeout", 0, "with -n, limits the whole run (default 1m more than publishing takes);\nwithout -n, limits the wait for orders on their way after Ctrl-C (default 1m)")
	flag.StringVar(&cfg.metricsAddr, "metrics-addr", defaultMetricsAddr, "`address` that serves /metrics")
	flag.StringVar(&cfg.traceSVG, "trace-svg", "", "also draw the trace that is shown, as an SVG in this `file`")
	flag.BoolVar(&cfg.verbose, "v", false, "show the log of go-micro and the brokers on stderr")
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { cfg.fixedAddr = cfg.fixedAddr || f.Name == "metrics-addr" })
	if flag.NArg() > 0 || cfg.orders < 0 || cfg.rate < 0 || cfg.timeout < 0 {
		fmt.Fprintln(flag.CommandLine.Output(), "demo: numbers must not be negative, and flags are the only arguments")
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
	errCount   = errors.New("not all orders are accounted for")
)

// run runs the demo from start to end. It returns nil if every order is accounted
// for.
func run(cfg settings, out io.Writer) error {
	began := time.Now()
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
	shop, err := openShop(nats.url, obs, books, demoHooks(notices, giveUp))
	if err != nil {
		return err
	}
	closeShop := sync.OnceValue(shop.close)
	defer func() { _ = closeShop() }()

	introduce(out, cfg, nats, obs)
	s := &session{
		cfg: cfg, books: books, spans: obs.spans, signals: signals, notices: notices,
		progress: newProgress(out, began, func() row { return sample(books, obs.registry) }),
		running:  running, stopPublishing: stopPublishing, giveUp: giveUp,
	}
	arrived := make(chan error, 1)
	go func() {
		shop.publishOrders(publishing, cfg.orders, cfg.rate, notices)
		arrived <- books.await(running)
	}()
	err = s.follow(arrived)

	// The gauges end with the subscriptions, so pending is read before they stop. The
	// counters are final only after that.
	pending := s.progress.read().pending
	if closeErr := closeShop(); err == nil {
		err = closeErr
	}
	s.progress.finish(pending)
	s.show(obs.spans.fallback())
	sum := books.summary()
	fmt.Fprint(out, sum.String(s.progress.last, time.Since(began)))
	if err == nil && !sum.complete() {
		err = errCount
	}
	return errors.Join(err, s.drawErr)
}

// session is the part of a run in which orders are on their way. One goroutine owns
// it.
type session struct {
	cfg            settings
	books          *ledger
	spans          *collector
	progress       *progress
	signals        <-chan os.Signal
	notices        <-chan string
	running        context.Context // cancelled by giveUp
	stopPublishing context.CancelFunc
	giveUp         context.CancelCauseFunc

	stopping bool  // there was a signal
	drawErr  error // why there is no picture of the trace
}

// follow prints what happens until it receives from arrived, and returns what it
// received: nil if all orders have arrived, or why the demo gave up.
func (s *session) follow(arrived <-chan error) error {
	if s.cfg.orders > 0 {
		s.startTimeout()
	}
	gaveUp := s.running.Done()
	for {
		select {
		case err := <-arrived:
			return err
		case <-s.progress.tick():
			s.progress.update()
		case trace := <-s.spans.picked:
			s.show(trace)
		case text := <-s.notices:
			s.progress.note(text)
		case <-gaveUp:
			s.stopPublishing() // arrived then receives the reason
			gaveUp = nil
		case <-s.signals:
			s.interrupt()
		}
	}
}

// startTimeout lets the demo give up when the timeout has passed.
func (s *session) startTimeout() {
	time.AfterFunc(s.cfg.timeout, func() { s.giveUp(errTimeout) })
}

// interrupt handles a signal. The first one stops the publishing, and the second one
// also stops the wait for orders.
func (s *session) interrupt() {
	if s.stopping {
		s.giveUp(errStopped)
		return
	}
	s.stopping = true
	s.stopPublishing()
	if n := s.books.soFar().missing; n > 0 {
		s.progress.note(fmt.Sprintf("Stopping; orders on their way: %d. Press Ctrl-C again to stop without them.", n))
	}
	if s.cfg.orders == 0 {
		s.startTimeout()
	}
}

// show prints the trace, if there is one, and draws its picture if the user asked for
// it.
func (s *session) show(trace *tree) {
	if trace == nil {
		return
	}
	s.progress.block(trace.String())
	if s.cfg.traceSVG != "" {
		s.drawErr = os.WriteFile(s.cfg.traceSVG, []byte(trace.waterfall()), 0o644)
	}
}

// introduce prints what the demo does, and where to find the server, the metrics and
// the traces.
func introduce(out io.Writer, cfg settings, nats *natsServer, obs *observability) {
	how := fmt.Sprintf("%g a second until Ctrl-C", cfg.rate)
	if cfg.orders > 0 {
		how = fmt.Sprintf("%d at %g a second", cfg.orders, cfg.rate)
	}
	fmt.Fprintf(out, `Three go-micro services on JetStream:
  orders --orders.created--> payments --payments.taken--> shipping --shipping.sent--> orders

  server    %s
  metrics   %s
  live      %s
  traces    %s
  orders    %s
  failures  1 in 100: payment fails once (1 in 5 of them: shipping fails for good); 1 in 1000: a panic
`, nats.describe, obs.describeMetrics, obs.describePage, obs.describeTraces, how)
}
