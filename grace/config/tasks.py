"""Names of the tasks and their categories: plain data, so that planning needs no mteb import."""

CATEGORIES = (
    "Retrieval",
    "Reranking",
    "Clustering",
    "PairClassification",
    "Classification",
    "STS",
    "Summarization",
)

# MTEB(eng, v1), the paper's 56 data sets (a test compares them with the installed mteb).
MTEB = {
    "Retrieval": (
        "ArguAna ClimateFEVER CQADupstackRetrieval DBPedia FEVER FiQA2018 HotpotQA MSMARCO NFCorpus NQ "
        "QuoraRetrieval SCIDOCS SciFact Touche2020 TRECCOVID"
    ),
    "Reranking": "AskUbuntuDupQuestions MindSmallReranking SciDocsRR StackOverflowDupQuestions",
    "Clustering": (
        "ArxivClusteringP2P ArxivClusteringS2S BiorxivClusteringP2P BiorxivClusteringS2S MedrxivClusteringP2P "
        "MedrxivClusteringS2S RedditClustering RedditClusteringP2P StackExchangeClustering "
        "StackExchangeClusteringP2P TwentyNewsgroupsClustering"
    ),
    "PairClassification": "SprintDuplicateQuestions TwitterSemEval2015 TwitterURLCorpus",
    "Classification": (
        "AmazonCounterfactualClassification AmazonPolarityClassification AmazonReviewsClassification "
        "Banking77Classification EmotionClassification ImdbClassification MassiveIntentClassification "
        "MassiveScenarioClassification MTOPDomainClassification MTOPIntentClassification "
        "ToxicConversationsClassification TweetSentimentExtractionClassification"
    ),
    "STS": "BIOSSES SICK-R STS12 STS13 STS14 STS15 STS16 STS17 STS22 STSBenchmark",
    "Summarization": "SummEval",
}

# The paper's table 3: the 16 of every ablation.
SUBSET = {
    "Retrieval": "SciFact ArguAna NFCorpus",
    "Reranking": "StackOverflowDupQuestions SciDocsRR",
    "Clustering": "BiorxivClusteringS2S MedrxivClusteringS2S TwentyNewsgroupsClustering",
    "PairClassification": "SprintDuplicateQuestions",
    "Classification": "Banking77Classification EmotionClassification MassiveIntentClassification",
    "STS": "STS17 SICK-R STSBenchmark",
    "Summarization": "SummEval",
}

# The demo's own tasks; no honest stand-in exists for Summarization, so it has none.
DEMO = {
    "Retrieval": "DocstringRetrieval",
    "Reranking": "DocstringReranking",
    "Clustering": "DocstringClustering",
    "PairClassification": "DocstringPairs",
    "Classification": "DocstringClassification",
    "STS": "DocstringSTS",
}

CATEGORY: dict[str, str] = {
    name: category for table in (MTEB, DEMO) for category, names in table.items() for name in names.split()
}

# Of a sampled retrieval (`evaluation.sample`): documents drawn for each query beside its own.
OTHER_DOCUMENTS = 10

DEMO_GENERAL = ("docstring_perplexity", "docstring_choice")

# Table 5 of the paper, then the demo's own.
GENERAL = ("gsm8k", "mmlu", "triviaqa", "fever", "bbh", "humaneval", *DEMO_GENERAL)
