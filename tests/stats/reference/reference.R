# Makes every *_expected.csv of this folder from the data beside it: Rscript reference.R, in this folder.
# Values in the checkout: R 4.2.2 with pROC 1.18.0, survival 3.5-3, cmprsk 2.2-11, rms 6.5-0, vcd 1.4-11, lme4 1.1-31 and
# riskRegression 2022.11.28 of Debian 12, auRoc 0.2-1 and PropCIs 0.3-0 of CRAN. The tests of covid3d/stats read the files
# and need no R.
# transplants.csv: days, status and disease of `bmtcrr` (R package casebase, MIT), of Scrucca, Santucci & Aversa, Bone
# Marrow Transplant 2007; 40: 381. All other data are drawn from random numbers.
library(pROC)
library(auRoc)
library(survival)
library(cmprsk)
library(lme4)
library(splines)
suppressMessages(library(riskRegression))
options(digits = 15)

read <- function(name) read.csv(paste0(name, ".csv"))
keep <- function(rows, name) write.csv(do.call(rbind, rows),
  paste0(name, "_expected.csv"), row.names = FALSE, quote = FALSE, na = "")
or_na <- function(expression, size = 1) tryCatch(suppressWarnings(expression), error = function(e) rep(NA, size))
z <- qnorm(0.975)

# --- AUC: DeLong's variance and interval, its logit form by the delta method, Newcombe's method 5, paired DeLong -------
keep(lapply(split(read("auc"), ~case), function(d) {
  a <- roc(d$label, d$a, levels = c(0, 1), direction = "<", quiet = TRUE)
  b <- roc(d$label, d$b, levels = c(0, 1), direction = "<", quiet = TRUE)
  area <- as.numeric(auc(a))
  variance <- or_na(var(a, method = "delong"))
  wald <- or_na(as.numeric(ci.auc(a, method = "delong")), 3)
  logit <- plogis(qlogis(area) + c(-1, 1) * z * sqrt(variance) / (area * (1 - area)))
  newcombe <- or_na(auc.mw.newcombe(d$a[d$label == 1], d$a[d$label == 0], 0.05), 3)
  paired <- or_na(roc.test(a, b, method = "delong", paired = TRUE))
  unpaired <- or_na(roc.test(a, b, method = "delong", paired = FALSE))
  difference <- if (is.list(paired)) c(paired$p.value, paired$conf.int) else rep(NA, 3)
  data.frame(case = d$case[1], auc = area, var = variance, low = wald[1], high = wald[3], logit_low = logit[1],
             logit_high = logit[2], newcombe_low = newcombe[2], newcombe_high = newcombe[3], p = difference[1],
             d_low = difference[2], d_high = difference[3],
             unpaired_p = if (is.list(unpaired)) unpaired$p.value else NA)
}), "auc")

# --- ranks: exact p where nothing is tied, and the t approximation -----------------------------------------------------
keep(lapply(split(read("ranks"), ~case), function(d) {
  tied <- anyDuplicated(d$x) > 0 || anyDuplicated(d$y) > 0
  near <- or_na(cor.test(d$x, d$y, method = "spearman", exact = FALSE))
  exact <- if (tied || nrow(d) > 9) NA else cor.test(d$x, d$y, method = "spearman", exact = TRUE)$p.value
  data.frame(case = d$case[1], n = nrow(d), rho = near$estimate, p = near$p.value, p_exact = exact)
}), "ranks")

# --- two groups: log-rank, Cox with Efron's ties, the sandwich by cluster ----------------------------------------------
whole <- split(read("survival"), ~case)
keep(lapply(whole, function(d) {
  y <- Surv(d$days, d$event)
  warned <- ""
  fit <- or_na(withCallingHandlers(summary(coxph(y ~ group, d, ties = "efron")), warning = function(w) {
    warned <<- gsub("[,\n]", ";", conditionMessage(w))
  }))
  robust <- or_na(summary(coxph(y ~ group + cluster(cluster), d, ties = "efron")))
  test <- or_na(survdiff(y ~ group, d))
  numbers <- function(f, p) if (is.list(f)) c(f$conf.int[c(1, 3, 4)], f$coefficients[p]) else rep(NA, 4)
  a <- numbers(fit, 5)
  b <- numbers(robust, 6)
  data.frame(case = d$case[1], chisq = if (is.list(test) && test$var[1] > 0) test$chisq else NA, hr = a[1], hr_low = a[2], hr_high = a[3],
             p = a[4], cl_hr = b[1], cl_low = b[2], cl_high = b[3], cl_p = b[4], warned = warned)
}), "survival")
keep(lapply(split(read("clusters"), ~set), function(d) {
  f <- coxph(Surv(days, event) ~ group + cluster(id), d, ties = "efron")
  data.frame(set = d$set[1], coef = coef(f), robust = sqrt(f$var[1]), naive = sqrt(f$naive.var[1]))
}), "clusters")

# --- curves of single groups: Kaplan-Meier with log-log limits, cumulative incidence -----------------------------------
some <- whole[c("100", "240", "350", "380")]
keep(lapply(some, function(d) {
  k <- survfit(Surv(days, event) ~ 1, d, conf.type = "log-log")
  data.frame(case = d$case[1], day = k$time, surv = k$surv, low = k$lower, high = k$upper, at_risk = k$n.risk,
             events = k$n.event, censored = k$n.censor)
}), "kaplan_meier")
keep(lapply(some, function(d) {
  if (all(d$cause == 0)) return(NULL)
  days <- sort(unique(d$days[d$cause > 0]))
  found <- timepoints(cuminc(d$days, d$cause), days)$est
  data.frame(case = d$case[1], cause = rep(sub("1 ", "", rownames(found)), each = length(days)), day = days,
             est = as.numeric(t(found)))
}), "incidence")

# --- competing events: Gray's test of two groups, incidence with log-log limits ----------------------------------------
keep(lapply(c("competing", "transplants"), function(name) {
  d <- read(name)
  tests <- cuminc(d$days, d$cause, d$group)$Tests
  data.frame(data = name, cause = seq_len(nrow(tests)), chi_square = tests[, "stat"], p = tests[, "pv"])
}), "competing")
d <- read("competing")
at <- summary(survfit(Surv(days, factor(cause, 0:2)) ~ 1, d, conf.type = "log-log"), times = c(3, 7, 14))
keep(list(data.frame(day = at$time, cause_1 = at$pstate[, 2], low = at$lower[, 2], high = at$upper[, 2],
                     cause_2 = at$pstate[, 3])), "competing_incidence")

# --- do probabilities come true: rms::val.prob, with the limits of glm; net benefit as dcurves has it ------------------
keep(lapply(split(read("calibration"), ~case), function(d) {
  chance <- plogis(d$logit)
  found <- rms::val.prob(chance, d$label, pl = FALSE)
  large <- glm(label ~ offset(logit), binomial, d, epsilon = 1e-14)
  slope <- glm(label ~ logit, binomial, d, epsilon = 1e-14)
  gain <- function(cut) mean((chance >= cut) * ifelse(d$label == 1, 1, -cut / (1 - cut)))
  data.frame(case = d$case[1], large = coef(large), large_low = confint.default(large)[1], large_high = confint.default(large)[2],
             intercept = found[["Intercept"]], slope = found[["Slope"]], slope_low = confint.default(slope)[2, 1],
             slope_high = confint.default(slope)[2, 2], brier = found[["Brier"]], auc = found[["C (ROC)"]], net_25 = gain(0.25),
             net_50 = gain(0.5))
}), "calibration")

# --- calls of two raters: Cohen's kappa, McNemar, shares, the difference of paired shares ------------------------------
calls <- read("calls")
keep(lapply(seq_len(nrow(calls)), function(i) {
  d <- calls[i, ]
  n <- sum(d)
  right <- d$both + d$first
  kappa <- or_na(vcd::Kappa(matrix(c(d$both, d$second, d$first, d$neither), 2))$Unweighted, 2)
  tango <- function(level) PropCIs::scoreci.mp(d$second, d$first, n, level)$conf.int
  wilson <- prop.test(right, n, correct = FALSE)$conf.int
  exact <- binom.test(right, n)$conf.int
  data.frame(kappa = kappa[[1]], kappa_se = kappa[[2]], p = if (d$first + d$second) binom.test(d$first, d$first + d$second)$p.value else 1,
             low = tango(0.95)[1], high = tango(0.95)[2], low_90 = tango(0.9)[1], high_90 = tango(0.9)[2], wilson_low = wilson[1],
             wilson_high = wilson[2], exact_low = exact[1], exact_high = exact[2])
}), "calls")

# --- courses: a natural spline with a random intercept a patient -------------------------------------------------------
d <- read("courses")
knots <- quantile(d$day, 1:2 / 3)
ends <- range(d$day)
fit <- lmer(logit ~ ns(day, knots = knots, Boundary.knots = ends) + (1 | patient_id), d)
grid <- data.frame(day = seq(quantile(d$day, 0.05), quantile(d$day, 0.95), length.out = 61))
sds <- as.data.frame(VarCorr(fit))$sdcor
keep(list(data.frame(day = grid$day, s = predict(fit, grid, re.form = NA), between = sds[1], within = sds[2])), "courses")

# --- stays with deaths: AUC and Brier score by day, the best of all cut-offs, those still there after a landmark -------
d <- read("stays")
days <- c(3, 6, 10)
chance <- exp(-outer(exp(-d$score), days) / 10)
judged <- Score(list(s = 1 - chance), Hist(days, cause) ~ 1, d, cause = 1, times = days, se.fit = FALSE, null.model = FALSE)
largest <- function(d, cuts) max(sapply(cuts, function(cut) survdiff(Surv(days, cause == 1) ~ score >= cut, d)$chisq))
shares <- sapply(sort(unique(d$score)), function(cut) mean(d$score >= cut))
cuts <- sort(unique(d$score))[shares >= 0.1 & shares <= 0.9]
late <- sapply(days, function(day) largest(subset(d, days > day), 0))
keep(list(data.frame(day = days, auc = judged$AUC$score$AUC, brier = judged$Brier$score$Brier, landmark = late,
                     cuts = length(cuts), largest = largest(d, cuts))), "stays")
