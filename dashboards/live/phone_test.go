package live_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/dashboards/live"
)

// hostile is a page that has seen names which nobody should choose.
func hostile() *live.Page {
	page := live.New()
	h := page.Hooks()
	for _, name := range []string{
		strings.Repeat("long", 60), strings.Repeat("long.", 50) + "end", `<img src=x onerror="document.title='bad'">`,
		"\u202egnp.exe", "مرحبا.بالعالم", "a\x00\x1b[31m\nb\tc", strings.Repeat("界", 80), "\xff\xfe",
	} {
		sub := jsbroker.Subscription{Topic: name, Queue: name, Stream: name, Consumer: name}
		ctx := h.SubscriptionStart(context.Background(), jsbroker.SubscriptionStart{Subscription: sub, Concurrency: 2})
		d := jsbroker.Delivery{Subscription: sub, Subject: name, MessageID: name, StreamSequence: 1 << 60, ConsumerSequence: 1, NumDelivered: 7, StoredAt: time.Now()}
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d, Header: map[string]string{"traceparent": name}})
		h.Handled(ctx, jsbroker.Handled{Delivery: d, Result: jsbroker.ResultNak, Err: errors.New(name), Delay: time.Hour})
		d.StreamSequence, d.ConsumerSequence = d.StreamSequence+1, 2
		h.HandleStart(ctx, jsbroker.HandleStart{Delivery: d})
	}
	return page
}

// However long and strange the names, nothing of the page is beyond the edge of a phone,
// and no name becomes markup.
func TestThePageFitsAPhone(t *testing.T) {
	chromium := browser(t)
	page := hostile()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			page.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if r.URL.Path == "/" { // a window of chromium cannot be so narrow
			_, _ = w.Write([]byte(`<body style="margin:0"><iframe src="/page" style="width:390px;height:844px;border:0"></iframe>`))
			return
		}
		// With a script that measures, which the page would not permit.
		recorded := httptest.NewRecorder()
		page.ServeHTTP(recorded, r)
		_, _ = w.Write([]byte(strings.Replace(recorded.Body.String(), "</body>", `<script>setInterval(() => {
			const seen = parent.document.body.dataset;
			seen.width = document.documentElement.scrollWidth + " of " + innerWidth;
			seen.markup = document.querySelectorAll("img, main script").length + " beside " + document.querySelectorAll("td").length;
			seen.text = main.innerText.includes("<img src=x onerror");
		}, 100)</script></body>`, 1)))
	}))
	defer server.Close()
	dom := domOf(t, chromium, server.URL, 3*time.Second)
	m := regexp.MustCompile(`data-width="(\d+) of 390"`).FindStringSubmatch(dom)
	if m == nil || m[1] != "390" {
		t.Errorf("the width of the page: %v", m)
	}
	if !strings.Contains(dom, `data-text="true"`) || !regexp.MustCompile(`data-markup="0 beside [1-9]`).MatchString(dom) {
		t.Errorf("a name became markup, or is not shown: %s", dom)
	}
}

// domOf is what a browser makes of a page that has been open for that long.
func domOf(t *testing.T, chromium, url string, open time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		fmt.Sprintf("--virtual-time-budget=%d", open.Milliseconds()), "--dump-dom", url).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A service that takes questions and does not answer is not mistaken for one without news.
func TestThePageSaysThatItGetsNoAnswer(t *testing.T) {
	chromium := browser(t)
	page := live.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := httptest.NewRecorder()
		page.ServeHTTP(recorded, r)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(strings.Replace(recorded.Body.String(), "<body>", `<body><script>
			window.fetch = (_, options) => new Promise((_, fail) => options.signal.addEventListener("abort", () => fail(options.signal.reason)));
		</script>`, 1)))
	}))
	defer server.Close()
	if dom := domOf(t, chromium, server.URL, 11*time.Second); !strings.Contains(dom, "no answer from the service: it takes longer than 10 s") {
		t.Error(dom)
	}
}

var (
	scheme = regexp.MustCompile(`:root \{[^}]*--bg[^}]*\}`)
	colour = regexp.MustCompile(`--(\w+): #([0-9a-f]+);`)
)

// brightness is the relative luminance of WCAG 2.1.
func brightness(t *testing.T, hex string) float64 {
	t.Helper()
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	rgb, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	part := func(shift int) float64 {
		c := float64(rgb>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(16) + 0.7152*part(8) + 0.0722*part(0)
}

// All text and the edges of what can be used have the contrast that WCAG 2.1 asks for at
// level AA, in light and in dark.
func TestColoursCanBeRead(t *testing.T) {
	t.Parallel()
	recorded := httptest.NewRecorder()
	live.New().ServeHTTP(recorded, httptest.NewRequest(http.MethodGet, "/", nil))
	schemes := scheme.FindAllString(recorded.Body.String(), -1)
	if len(schemes) != 2 {
		t.Fatalf("%d schemes of colours", len(schemes))
	}
	for i, text := range schemes {
		colours := map[string]float64{}
		for _, m := range colour.FindAllStringSubmatch(text, -1) {
			colours[m[1]] = brightness(t, m[2])
		}
		for name, least := range map[string]float64{"fg": 4.5, "dim": 4.5, "bad": 4.5, "warn": 4.5, "good": 4.5, "focus": 3} {
			for _, ground := range []string{"bg", "card"} {
				a, b := colours[name], colours[ground]
				if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); ratio < least {
					t.Errorf("scheme %d: %s on %s has a contrast of %.2f, want %v", i, name, ground, ratio, least)
				}
			}
		}
	}
	if !strings.Contains(recorded.Body.String(), "input, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--dim);") {
		t.Error("inputs and buttons have another edge than the colour of which this test knows the contrast")
	}
}
