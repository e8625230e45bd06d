package live_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
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
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--virtual-time-budget=3000", "--dump-dom", server.URL).Output()
	if err != nil {
		t.Fatal(err)
	}
	dom := string(out)
	m := regexp.MustCompile(`data-width="(\d+) of 390"`).FindStringSubmatch(dom)
	if m == nil || m[1] != "390" {
		t.Errorf("the width of the page: %v", m)
	}
	if !strings.Contains(dom, `data-text="true"`) || !regexp.MustCompile(`data-markup="0 beside [1-9]`).MatchString(dom) {
		t.Errorf("a name became markup, or is not shown: %s", dom)
	}
}
